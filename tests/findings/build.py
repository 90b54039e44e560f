"""Evidence in small pieces, for tests of rules and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leakaudit.document.schema import (
    AttackEntry,
    BatchSection,
    ControlEntry,
    DefenceEntry,
    FidelityEntry,
    HistoryPoint,
    LabelResult,
    ProtocolSection,
    RankSection,
    SampleResult,
    TargetSection,
    VictimResult,
)
from leakaudit.findings import Evidence


def sample(leaked: bool, psnr: float | None = 30.0, ssim: float = 0.9, **more: Any) -> SampleResult:
    """An image as the measure of images describes it."""
    described: dict[str, Any] = {
        "metrics": {"psnr": psnr, "ssim": ssim, "margin": 15.0},
        "closeness": psnr,
        "recognisable": psnr is None or psnr >= 25 or ssim >= 0.8,
        "told": "exact" if psnr is None else f"{psnr:.1f} dB PSNR, 15.0 dB above its best floor",
        "distractors_wanted": 100,
    }
    fields = {**described, **more}
    return SampleResult(index=0, label=1, inferred_label=1, psnr=psnr, ssim=ssim, margin=15.0, leaked=leaked, **fields)


def victim(*samples: SampleResult, correct: int = 1, **more: Any) -> VictimResult:
    labels = LabelResult(true=[1], inferred=[1 if correct else 0], correct=correct)
    fallen = [HistoryPoint(iteration=n, objective=value, match=value) for n, value in ((0, 1.0), (9, 0.1))]
    defaults: dict[str, Any] = {
        "victim": 0, "seed": 0, "residual": 0.1, "seconds": 1.0, "labels": labels, "history": fallen, "iterations": 10
    }  # fmt: skip
    return VictimResult(**{**defaults, **more}, samples=list(samples))


def entry(*samples: SampleResult, correct: int = 1, certified: bool | None = None, **more: Any) -> AttackEntry:
    defaults: dict[str, Any] = {"name": "ig", "title": "IG", "status": "run", "threat_model": "B"}
    results = [victim(*samples, correct=correct, certified=certified)]
    return AttackEntry(**{**defaults, "results": results, **more})


def control(kind: Any, passed: bool | None, attack: str = "ig") -> ControlEntry:
    return ControlEntry(kind=kind, attack=attack, title=attack.upper(), passed=passed, detail="what happened")


NOISE = DefenceEntry(name="gaussian", title="noise", text="noise=1", evaluated=True)
CONTROLS = [control(kind, True) for kind in ("positive", "negative", "prior_only")]


def evidence(
    attacks: list[AttackEntry],
    *,
    risk: Any = "low",
    update_told: str = "",
    batch_size: int = 2,
    mode: str = "train",
    distinct_records: Sequence[int] = (),
    fidelity: tuple[str, ...] = (),
    target: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    **more: Any,
) -> Evidence:
    """Evidence in which no rule but LA403 finds anything, unless asked for."""
    plain: dict[str, Any] = {
        "name": "m", "path": None, "sha256": None, "format": "module", "classes": 10, "input_shape": [3, 8, 8],
        "parameters": 1, "trainable_tensors": 1,
    }  # fmt: skip
    notes = [FidelityEntry(id=name, message="a note") for name in fidelity]
    section = TargetSection(**{**plain, **(target or {})}, fidelity=notes)
    made = ProtocolSection(batch_size=batch_size, mode=mode, **(protocol or {}))
    rank = RankSection(risk=risk, score=None, layers=[], update_told=update_told)
    if distinct_records:
        counts = {"samples": 8, "batch_size": batch_size, "victims": len(distinct_records), "mean": [], "std": []}
        more["batch"] = BatchSection(path=None, sha256=None, distinct_records=list(distinct_records), **counts)
    return Evidence(section, made, rank, attacks, **more)
