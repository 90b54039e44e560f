"""What to audit and how hard to try: the settings of one audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from leakaudit.audit.cache import Cache
from leakaudit.audit.controls import Level
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.defences.base import Defence
from leakaudit.errors import UsageError
from leakaudit.observation import ThreatModel
from leakaudit.scoring.base import LeakCriterion


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What to audit and how hard to try.

    Args:
        batch_size: Samples per update.
        victims: Independent batches to attack; ``None`` takes up to 4, as many as the file holds.
        attacks: Names; empty for all that are installed.
        preset: ``quick``, ``standard`` or ``paper``.
        settings: Settings to override per attack, as text: ``{"ig": {"iterations": "600"}}``.
        time_budget: Seconds for all attacks and controls together, or ``None``.
        controls: ``quick``, ``full`` or ``none``; see `leakaudit.audit.controls`.
        criterion: When a sample counts as leaked.
        distractors: Further images (M, C, H, W) in 0..1 that a sample must be told from, or ``None``.
        threat_model: Attacks that need a stronger attacker than this letter are not run.
        seed: Decides victims, starts and probes.
        device: ``auto``, ``cpu`` or ``cuda``.
        auxiliary: Public images (N, C, H, W) in 0..1 for attacks of threat model D, or ``None``.
        lpips_weights: SqueezeNet 1.1 checkpoint for LPIPS; ``None`` looks in torch's hub cache.
        defences: What clients do to their updates, in this order; the attacker knows.
        claims: What clients believe is done to their updates; compared with what they share, and not applied.
        recorded: The update of a real client, attacked in place of one computed here; the samples are those behind it.
        cache: Where results of attacks are kept, so that a killed audit goes on where it was; ``None`` keeps nothing.
    """

    batch_size: int = 1
    victims: int | None = None
    attacks: tuple[str, ...] = ()
    preset: str = "standard"
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    time_budget: float | None = None
    controls: Level = "quick"
    criterion: LeakCriterion = field(default_factory=LeakCriterion)
    distractors: Tensor | None = None
    threat_model: ThreatModel = "E"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    auxiliary: Tensor | None = None
    lpips_weights: Path | None = None
    defences: tuple[Defence, ...] = ()
    claims: tuple[Defence, ...] = ()
    recorded: RecordedUpdate | None = None
    cache: Cache | None = None

    def __post_init__(self) -> None:
        for name, value in (("--batch-size", self.batch_size), ("--victims", self.victims)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected at least 1")
        if self.time_budget is not None and self.time_budget <= 0:
            raise UsageError(f"--time-budget is {self.time_budget:g} seconds, expected more than 0")
