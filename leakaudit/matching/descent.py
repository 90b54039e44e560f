"""Two ways down: Adam on a group of restarts in step, and L-BFGS on one restart.

Both keep the best iterate of every restart by the whole objective, and stop when the monitor says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from leakaudit.document.status import Cut, Lost
from leakaudit.matching.adam import Adam
from leakaudit.matching.lbfgs import lbfgs_descent
from leakaudit.matching.once import joined
from leakaudit.matching.schedule import LearningRate
from leakaudit.matching.settings import MatchSettings
from leakaudit.matching.step import Step
from leakaudit.reconstruction import LossPoint, Monitor, cause_of

HISTORY_POINTS = 200
"""Points of the objective that are kept for the report; chosen."""
SNAPSHOT_FRACTIONS = (0.0, 0.05, 0.1, 0.25, 0.5)
"""Parts of the way at which the inputs are kept for the report; chosen."""
OBJECTIVE_SCALE = 1e6
"""torch's L-BFGS forgets curvature pairs with ⟨s, y⟩ ≤ 1e-10, which a match near zero falls below; unscaled, the
descent ends at 41.7 dB on a LeNet where it otherwise reaches 51.5, as with 1e3 (`benchmarks/results/constants.md`, 4
images)."""
UPHILL = 0.01
"""Size of the step uphill of the gradient regularisation, per entry; chosen, not measured: no preset uses it."""
STALL = 150
"""Evaluations over which L-BFGS must lower its best objective by a tenth, or stop; chosen: 50 ends no other way on a
LeNet (`benchmarks/results/constants.md`, 4 images)."""


@dataclass(eq=False)
class Solution:
    """Where a descent ended: the best iterate of one restart.

    Args:
        values: Unknowns by name, without the restart axis.
        objective: Objective there.
        match: Match there, without priors.
        history: Objective over iterations.
        shots: Iteration and inputs there, part of the way.
        iterations: Iterations that led here.
        cut: What it had less of than its settings say, where it was stopped.
        given_up: Iterations of descents beside it that led elsewhere.
    """

    values: dict[str, Tensor]
    objective: float
    match: float
    history: tuple[LossPoint, ...] = ()
    shots: tuple[tuple[int, Tensor], ...] = ()
    iterations: int = 0
    cut: Cut | None = None
    given_up: int = 0

    @property
    def spent(self) -> int:
        """Iterations done in all."""
        return self.iterations + self.given_up

    def beside(self, others: Sequence[Solution]) -> Solution:
        """The same, after other descents were given up for it."""
        return replace(self, given_up=self.given_up + sum(other.spent for other in others))


def best_of(solutions: Sequence[Solution]) -> Solution:
    """The one with the smallest match, after the others were given up for it."""
    best = min(range(len(solutions)), key=lambda i: solutions[i].match)
    return solutions[best].beside([*solutions[:best], *solutions[best + 1 :]])


@dataclass(eq=False)
class Progress:
    """Where this descent lies within the whole attack, so that the bar moves from 0 to 1 once."""

    monitor: Monitor
    begin: float = 0.0
    end: float = 1.0

    def update(self, fraction: float, objective: float) -> bool:
        """Report and ask: True when the descent must stop."""
        self.monitor.update(self.begin + (self.end - self.begin) * fraction, objective)
        return self.monitor.should_stop()

    def cut(self, done: int, total: int) -> Cut:
        """What a descent loses that stops after so many of its iterations."""
        return Cut(Lost.ITERATIONS, cause_of(self.monitor), done, total)

    def share(self, after: float, width: float) -> Progress:
        """The part that begins after a share of this one and is `width` of it."""
        whole = self.end - self.begin
        return Progress(self.monitor, self.begin + after * whole, self.begin + (after + width) * whole)


def _pictured(iteration: int, total: int) -> bool:
    """At fixed fractions of the planned iterations, and at 2ⁿ and 3·2ⁿ for a descent that ends early."""
    if iteration in {int(f * total) for f in SNAPSHOT_FRACTIONS}:
        return True
    return iteration // (iteration & -iteration) in (1, 3)


@dataclass(eq=False)
class _Records:
    """Best iterates, history and snapshots of a group of restarts; all tensors (R, …)."""

    names: tuple[str, ...]
    total: int
    best: list[Tensor]
    objective: Tensor
    match: Tensor
    points: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    shots: list[tuple[int, Tensor]] = field(default_factory=list)
    last: int = -1

    @classmethod
    def of(cls, names: Sequence[str], values: Sequence[Tensor], total: int) -> _Records:
        worst = torch.full((values[0].shape[0],), float("inf"), dtype=values[0].dtype, device=values[0].device)
        return cls(tuple(names), total, [value.detach().clone() for value in values], worst, worst.clone())

    def note(self, iteration: int, values: Sequence[Tensor], objective: Tensor, match: Tensor) -> None:
        """Keep what is better, and a point of the history where one is due."""
        better = objective < self.objective
        won = int(better.sum())
        if won == len(better):  # as of a single restart
            for place, value in zip(self.best, values, strict=True):
                place.copy_(value.detach())
            self.objective, self.match = objective, match
        elif won:
            for place, value in zip(self.best, values, strict=True):
                place[better] = value.detach()[better]
            self.objective = torch.where(better, objective, self.objective)
            self.match = torch.where(better, match, self.match)
        if iteration % max(1, self.total // HISTORY_POINTS) == 0 or iteration == self.total - 1:
            self.points.append((iteration, objective, match))
        if _pictured(iteration, self.total) and iteration != self.last:
            inputs = values[self.names.index("inputs")]
            self.shots.append((iteration, inputs.detach().clone()))
        self.last = iteration

    def solutions(self, iterations: int, cut: Cut | None) -> list[Solution]:
        """One solution per restart."""
        return [
            Solution(
                {name: value[r] for name, value in zip(self.names, self.best, strict=True)},
                float(self.objective[r]),
                float(self.match[r]),
                tuple(LossPoint(i, float(o[r]), float(m[r])) for i, o, m in self.points),
                tuple((i, x[r]) for i, x in self.shots),
                iterations,
                cut,
            )
            for r in range(len(self.objective))
        ]


def adam(
    step: Step, start: Sequence[Tensor], settings: MatchSettings, generator: Generator, progress: Progress
) -> list[Solution]:
    """Adam or AdamW on (R, …) unknowns, projected into their range after every step.

    Only the inputs' gradient is signed, as in the authors' code of IG and DIA.
    """
    values = [value.detach().clone() for value in start]
    optimizer = Adam(values, decoupled=settings.optimizer == "adamw")
    rate = LearningRate(settings)
    records = _Records.of(step.names, values, settings.iterations)
    since, best, done = 0, float("inf"), 0
    cut: Cut | None = None
    for iteration in range(settings.iterations):
        lr = rate.at(iteration)
        objective, match, gradients = step(values)
        records.note(iteration, values, objective, match)
        if settings.flatness:
            gradients = _flattened(step, values, gradients, settings.flatness)
        lowest = float(objective.min())
        since, best = (0, lowest) if lowest < best else (since + 1, best)
        rate.report(lowest)
        together = zip(step.names, values, gradients, strict=True)
        optimizer.step([_direction(*each, settings, lr, generator) for each in together], lr)
        step.problem.project(step.names, values)
        done = iteration + 1
        if progress.update(done / settings.iterations, lowest):
            cut = progress.cut(done, settings.iterations)
            break
        if lowest < settings.tolerance or (settings.patience and since >= settings.patience):
            break
    return records.solutions(done, cut)


def _flattened(step: Step, values: Sequence[Tensor], gradients: Sequence[Tensor], share: float) -> tuple[Tensor, ...]:
    r"""Gradient of the objective with a penalty on its slope (gradient regularisation, as FedLeak, arXiv 2506.08435).

    ``∇(J + λ‖∇J‖) ≈ (1 − β) ∇J(x) + β ∇J(x + r ∇J/‖∇J‖)`` with β = λ/r (Zhao et al. 2022, arXiv 2202.03599), each
    restart by itself; r is `UPHILL` per entry in the mean square.
    """
    squared = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    size = sum(v[0].numel() for v in values)
    scale = UPHILL * size**0.5 / squared.sqrt().clamp_min(1e-30)
    shaped = [scale.view(-1, *(1,) * (g.dim() - 1)) for g in gradients]
    _, _, above = step([v + s * g for v, s, g in zip(values, shaped, gradients, strict=True)])
    return tuple((1 - share) * g + share * a for g, a in zip(gradients, above, strict=True))


def _direction(
    name: str, value: Tensor, gradient: Tensor, settings: MatchSettings, lr: float, generator: Generator
) -> Tensor:
    if name != "inputs":
        return gradient
    if settings.group_weight and value.shape[0] > 1:
        pull = value - value.mean(0, keepdim=True)
        gradient = gradient + settings.group_weight * 2 * pull / value[0].numel()
    if settings.noise:
        gradient = gradient + settings.noise * lr * torch.randn(gradient.shape, generator=generator).to(gradient)
    return gradient.sign() if settings.signed else gradient


class _Stop(Exception):
    """Leaves L-BFGS from within an evaluation."""


def lbfgs(step: Step, start: Sequence[Tensor], settings: MatchSettings, progress: Progress) -> list[Solution]:
    """L-BFGS with strong Wolfe line search on one restart, (1, …) unknowns; ``iterations`` counts evaluations.

    The range is imposed on the inputs at the end, and the iterate outside is kept if that is what matches.
    """
    records = _Records.of(step.names, start, settings.iterations)
    run = _Run(step, records, settings, progress)
    sizes = [value.numel() for value in start]

    def evaluate(point: Tensor) -> tuple[float, Tensor]:
        pieces = zip(torch.split(point, sizes), start, strict=True)
        objective, gradients = run.evaluate([piece.view_as(value) for piece, value in pieces])
        return OBJECTIVE_SCALE * float(objective), joined(gradients).mul_(OBJECTIVE_SCALE)

    with suppress(_Stop):
        lbfgs_descent(evaluate, joined([value.detach() for value in start]), settings.history)
    return records.solutions(run.done, run.cut)


@dataclass(eq=False)
class _Run:
    """Counts the evaluations of one L-BFGS descent and ends it."""

    step: Step
    records: _Records
    settings: MatchSettings
    progress: Progress
    done: int = 0
    cut: Cut | None = None
    mark: float = float("inf")

    def evaluate(self, values: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Objective and gradients; raises `_Stop` when the descent is over."""
        if self.done >= self.settings.iterations:
            raise _Stop
        objective, match, gradients = self.step(values)
        self.records.note(self.done, values, objective, match)
        self.done += 1
        total, best = self.settings.iterations, float(self.records.objective[0])
        if self.progress.update(self.done / total, best):
            self.cut = self.progress.cut(self.done, total)
            raise _Stop
        if best < self.settings.tolerance or not torch.isfinite(objective).all():
            raise _Stop
        if self.done % STALL == 0:
            if best > 0.9 * self.mark:
                raise _Stop
            self.mark = best
        return objective[0], gradients
