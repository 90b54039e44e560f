"""What runs of optimisation attacks take, known before they begin: their steps, by the seconds of one that is measured.

A step is one evaluation of the matching objective and of its gradient, at the size of the victim: what the client did,
and back through it. It is measured once an audit, on the first victim, when somebody first asks. Attacks whose
iterations are something else have no pace, and run without being planned.

Within a time budget, what the client did is measured first: it is a part of every step. Where the fewest steps of an
attack are too long for the budget by that part alone, the step itself is not measured, which takes several times the
time and the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.audit.victim import Victim
from leakaudit.findings.effort import LEAST_SHARE
from leakaudit.matching.engine import PLANNED_SHARE, GradientMatching, MatchSettings, measure_part, measure_step
from leakaudit.report.wording import number, seconds
from leakaudit.target.target import Target


@dataclass(frozen=True)
class Need:
    """What one run of an attack on a victim takes.

    Args:
        step: Seconds of an iteration.
        steps: Iterations of its settings, over all restarts.
        fewest: Of these, the fewest that tell something.
        preparation: Share of its time that goes before them.
        at_least: Whether `step` is only a part of one, so that all seconds here are less than it takes.
    """

    step: float
    steps: int
    fewest: int
    preparation: float = 0.0
    at_least: bool = False

    def seconds(self, steps: float) -> float:
        """Of a run with so many iterations."""
        return steps * self.step / (PLANNED_SHARE * (1 - self.preparation))

    @property
    def least(self) -> float:
        """Seconds below which it is not begun."""
        return self.seconds(self.fewest)

    @property
    def whole(self) -> float:
        """Seconds that all of it takes at most; it ends earlier where it converges."""
        return self.seconds(self.steps)


@dataclass(eq=False)
class Pace:
    """The seconds of a step, measured when first asked for.

    Args:
        target: The model under audit.
        victim: The first.
        budget: Seconds of the whole audit, or ``None``.
    """

    target: Target
    victim: Victim
    budget: float | None = None

    @cached_property
    def step(self) -> float | None:
        """Seconds of a step; ``None`` where no attacker can follow the client, or there is no memory to."""
        return self._measured(measure_step)

    @cached_property
    def least(self) -> float | None:
        """Seconds of what the client did, which each step computes and differentiates; ``None`` as for `step`."""
        return self._measured(measure_part)

    def _measured(self, measure: Callable[[GradientMatching, Mapping[str, Tensor]], float]) -> float | None:
        observation, target = self.victim.observation, self.victim.model or self.target
        if observation.labels is None or observation.protocol.withheld:
            return None
        like = next(iter(target.parameters.values()))
        start = observation.domain.start("zeros", observation.batch_size, cpu_generator(0)).to(like)
        problem = GradientMatching(target, observation, observation.labels, MatchSettings())
        try:
            return measure(problem, {"inputs": start})
        except torch.OutOfMemoryError:
            return None

    def of(self, attack: Attack) -> Need | None:
        """What a run of an attack takes; ``None`` for algebra, and where that cannot be told."""
        if attack.planned is None or attack.least is None or not isinstance(attack.settings, MatchSettings):
            return None
        steps = attack.settings.evaluations * attack.step_cost(self.victim.observation.protocol)
        if self.budget is not None and self.least is not None:
            part = Need(steps * self.least, attack.planned, attack.least, attack.preparation, at_least=True)
            if part.least > self.budget:
                return part
        if self.step is None:
            return None
        return Need(steps * self.step, attack.planned, attack.least, attack.preparation)

    def known(self, needs: Sequence[Need]) -> tuple[float | None, bool]:
        """Seconds of a step as far as these runs asked for them, and whether it takes at least so many."""
        if any(not need.at_least for need in needs):
            return self.step, False
        return (self.least, True) if needs else (None, False)


def too_dear(attack: Attack, pace: Pace, left: float | None) -> str:
    """Why a run is not begun, as a clause: what its fewest steps take, and what there is."""
    need = pace.of(attack)
    if need is None or left is None:
        return ""
    step, least = seconds(need.step), seconds(need.least)
    each = f"more than {step}, about {least} and more" if need.at_least else f"{step}, about {least}"
    steps = f"at least {number(need.fewest)} steps of {each}"
    if need.least > left:
        return f"it needs {steps}, and the budget leaves {seconds(max(0.0, left))}"
    share = f"{LEAST_SHARE:.0%} of its {number(need.steps)} where it is not the first"
    return f"it needs {steps}, or {share}; its part of the time is less"
