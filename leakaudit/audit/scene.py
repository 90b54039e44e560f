"""What the controls of an audit have in common: the attacks' runs, and what was audited how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leakaudit.attacks.base import Attack
from leakaudit.audit.budget import Budget
from leakaudit.audit.memory import Memory
from leakaudit.audit.request import Level
from leakaudit.audit.victim import Knowledge, Outcome
from leakaudit.client.batch import Batch
from leakaudit.document.schema import ControlEntry
from leakaudit.document.status import Cause
from leakaudit.domains.base import Domain
from leakaudit.protocols.base import Protocol
from leakaudit.scoring.base import Measure
from leakaudit.target.target import Target

Kind = Literal["positive", "negative", "prior_only", "ladder"]
ENDED = {Cause.BUDGET: "time budget spent", Cause.INTERRUPT: "interrupted"}
"""Why no further control is begun, in words."""


@dataclass(frozen=True, eq=False)
class Run:
    """An attack and its outcomes, one per victim that it was run on."""

    attack: Attack
    outcomes: list[Outcome]

    @property
    def claims(self) -> bool:
        """Whether it says that a sample leaked."""
        return not self.attack.upper_bound and any(outcome.leaked for outcome in self.outcomes)

    @property
    def iterations(self) -> int:
        """Iterations on the victim that got the fewest."""
        return min((outcome.reconstruction.iterations for outcome in self.outcomes), default=0)

    @property
    def strength(self) -> float:
        """How far its best result is above the floors."""
        return max((s.strength for o in self.outcomes for s in o.scores), default=float("-inf"))


@dataclass(frozen=True, eq=False)
class Scene:
    """What the controls have in common with the audit.

    Args:
        target: The model under audit.
        samples: The batch file.
        domain: What a sample is.
        measure: The audit's own.
        protocol: How updates are made.
        knowledge: Defences, public samples, and the audit's seed.
        budget: Time, and Ctrl-C.
        memory: What the audit keeps.
        level: Which controls.
    """

    target: Target
    samples: Batch
    domain: Domain
    measure: Measure[Any]
    protocol: Protocol
    knowledge: Knowledge
    budget: Budget
    memory: Memory
    level: Level


def control_entry(
    kind: Kind,
    attack: Attack,
    passed: bool | None,
    detail: str,
    numbers: dict[str, Any] | None = None,
    rungs: Sequence[tuple[int, bool | None]] = (),
) -> ControlEntry:
    """What a control showed; of a ladder with what was recovered at every number of local steps."""
    return ControlEntry(
        kind=kind,
        attack=attack.name,
        title=attack.title,
        passed=passed,
        detail=detail,
        numbers=numbers or {},
        steps=[steps for steps, _ in rungs],
        recovered=[found for _, found in rungs],
    )
