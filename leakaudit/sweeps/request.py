"""What ``leakaudit defend`` was asked for: a request, with what to try and what is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from leakaudit.audit.kinds import File, Kind, OneOf, Positive, Texts, Whole
from leakaudit.audit.parameters import asked
from leakaudit.audit.request import Request
from leakaudit.errors import UsageError

if TYPE_CHECKING:
    from leakaudit.sweeps.goal import Goal


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How utility is measured.

    Args:
        steps: Updates; chosen for time.
        learning_rate: Of SGD; chosen, not measured.
        held_out: Share of the samples that is only evaluated on, in 0..1; chosen.
    """

    steps: int = 30
    learning_rate: float = 0.05
    held_out: float = 0.3


@dataclass(frozen=True, kw_only=True)
class DefendRequest(Request):
    """What to try, what is enough, and everything that a :class:`leakaudit.Request` says.

    Args:
        goal: What a setting must reach: leaked=0, reidentified=0, or a limit on a metric of the model's domain, as
            PSNR<15 or SSIM<0.5 for images and accuracy<0.2 for texts.
        grid: Settings to try, as prune=0.99 (see leakaudit defences); default a grid over all.
        utility_data: Samples to train and evaluate with, as the batch; default those of the batch.
        steps: Training steps for the cost.
        utility_rate: Learning rate of these.
        preset: How hard to try.

    Raises:
        UsageError: A value that cannot be; names the keyword and what was expected.
    """

    preset: str = asked(OneOf(choices=("quick", "standard", "paper")), "standard", "--preset", usual="quick")
    checkpoints: Sequence[str | Path] = asked(Texts(), ())
    defences: Sequence[str] = asked(Texts(), ())
    update: str | Path | None = asked(File())
    round: str | Path | None = asked(File())
    goal: str = asked(Kind("GOAL"), "leaked=0", "--target", group="samples")
    grid: Sequence[str] = asked(Texts("SPEC"), (), "--defence", group="samples")
    utility_data: str | Path | None = asked(File(), None, "--utility-data", group="samples")
    steps: int = asked(Whole(least=1), TrainingPlan.steps, "--steps", group="samples")
    utility_rate: float = asked(Positive(), TrainingPlan.learning_rate, "--utility-rate", group="samples")

    verb: ClassVar[str] = "defend"

    def __post_init__(self, *initial: Any) -> None:
        """As of a request, and what only a scan takes is refused."""
        super().__post_init__(*initial)
        if self.recorded:
            raise UsageError("defend computes its updates itself", "audit a recorded one with leakaudit scan")
        if self.defences:
            raise UsageError("defences to try go into the grid", "pass them to leakaudit defend by --defence")
        if self.checkpoints:
            raise UsageError("defend measures one model", "scan its checkpoints with leakaudit scan")
        if self.both_modes:
            raise UsageError("mode is 'both', expected eval or train", "only leakaudit scan compares both")
        self.wanted()

    def wanted(self) -> Goal:
        """The goal, parsed.

        Raises:
            UsageError: It cannot be.
        """
        from leakaudit.sweeps.goal import parse_goal

        return parse_goal(self.goal)

    @property
    def plan(self) -> TrainingPlan:
        """How utility is measured."""
        return TrainingPlan(steps=self.steps, learning_rate=self.utility_rate)

    def scanning(self) -> Request:
        """The request of each audit."""
        return Request(**{f.name: getattr(self, f.name) for f in fields(Request)})
