r"""Levenberg-Marquardt for few unknowns: where a descent by gradients crawls, all directions are corrected at once.

An update may determine a sample and hardly show parts of it: the early steps of a sequence reach the last state of a
GRU a thousand times weaker than the late ones. The squared distance then has a long and narrow valley, in which L-BFGS
ends. With few unknowns the Jacobian J of the update is cheap, a backward pass for each, and the step s of

.. math:: (J^\top J + \lambda\, \mathrm{diag}\, J^\top J)\, s = -J^\top r

with the residual r follows the valley (Levenberg 1944; Marquardt 1963, doi 10.1137/0111030), in float64, since
:math:`J^\top J` squares what the directions differ by. λ falls after each step that lowers the distance and rises after
each that does not. Starts are tried one after another while the steps of this part last: one in two ends in the
sample on such a GRU (`benchmarks/results/recurrent.md`).

Labels that the update does not give are unknowns beside the inputs, as the numbers that the loss takes and without
their limits. Cross-entropy is linear in them, where a softmax of unknowns saturates: so the class of each place of a
U-Net is found with the picture, and through a softmax neither is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.objective import entries
from leakaudit.matching.problem import GradientMatching
from leakaudit.reconstruction import LossPoint

MOST = 64
"""Values of inputs up to which it is tried; chosen: a valley of so many directions is still found from some starts."""
MOST_IN_ALL = 256
"""Unknowns with those of labels, up to which it is tried; chosen: 23 Jacobians for every thousand steps."""
COLUMNS = 6
"""Columns of a Jacobian that count as one step of a search; where 6.7 take its time on a U-Net
(`benchmarks/results/recurrent.md`)."""
MOST_NUMBERS = 1 << 27
"""Numbers of a Jacobian up to which it is tried; chosen: 1 GiB in float64, and as much again on the way."""
TOGETHER = 64
"""Columns that are computed at once; 16 and 256 take longer (`benchmarks/results/recurrent.md`)."""
SHARE = 0.25
"""Of a search's steps that it may take before the search, and as many after it; chosen, so that half are left."""
SOLVED = 1e-11
"""Cosine distance at which the sample is found; chosen: float32's rounding of an update leaves 1e-14 to 1e-12."""
BEGIN, RISE, FALL = 1e-2, 4.0, 6.0
"""λ at the start, and what it is multiplied and divided by; chosen, near Marquardt's own 0.01 and 10."""
LEAST = 1e-14
"""Smallest λ; chosen, above the precision of float64."""
REFUSED = 12
"""Tries in a row that do not lower the distance, after which a start is given up; chosen: λ then grew 10^7 times."""
SLOW, WINDOW = 0.7, 10
"""A start is given up where so many steps lower the distance to no less than this share; chosen."""
DEEP = 1e-15
"""Squared distance relative to the update at which a descent ends; chosen, at the rounding of a float32 update."""


@dataclass(eq=False)
class _Descent:
    """One start on its way."""

    unknowns: Tensor
    spent: int = 0
    squared: float = float("inf")
    points: list[LossPoint] = field(default_factory=list)
    shots: list[tuple[int, Tensor]] = field(default_factory=list)


def levenberg_marquardt(
    problem: GradientMatching, guess: Mapping[str, Tensor], generator: Generator, progress: Progress
) -> Solution | None:
    """The best of several starts; ``None`` where unknowns are too many or the update is not the gradient alone.

    Args:
        problem: Its settings say how many iterations the whole search has; a Jacobian counts as one for every `COLUMNS`
            unknowns.
        guess: The first start; further ones are drawn.
        generator: CPU generator of those.
        progress: Of the whole search.
    """
    seen = problem.observation
    if guess["inputs"].numel() > MOST or not set(guess) <= {"inputs", "labels"} or seen.errors is not None:
        return None
    if not seen.plain or seen.one_bit or seen.protocol.steps > 1 or problem.masks or problem.priors:
        return None
    most = int(SHARE * problem.settings.planned)
    size = sum(value.numel() for value in guess.values())
    if size > MOST_IN_ALL or size * entries(problem.case.observed) > MOST_NUMBERS or -(-size // COLUMNS) >= most:
        return None
    try:
        space = _Space(problem.in_float64(problem.settings), guess)
        start = space.linearised(space.vector(guess["inputs"]))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # the module takes its own type only
        return None
    found = _several(space, start, generator, progress, most)
    return _rated(problem, found)


@dataclass(frozen=True, eq=False)
class _Linearised:
    """The update that unknowns would cause, minus the one observed (P,), and its derivative (P, unknowns)."""

    unknowns: Tensor
    residual: Tensor
    jacobian: Tensor


class _Space:
    """The unknowns as one vector: the inputs, and labels without their limits behind them.

    Args:
        problem: What they are the unknowns of.
        guess: One guess, for the shapes.
    """

    def __init__(self, problem: GradientMatching, guess: Mapping[str, Tensor]) -> None:
        self.problem, self.task = problem, problem.target.task
        self.wanted = torch.cat([tensor.flatten() for tensor in problem.case.observed])
        self.scale = float(self.wanted.norm())
        self.shape = guess["inputs"].shape
        self.loose = self.task.loosened(self.task.relaxed(guess["labels"])) if "labels" in guess else None
        self.inputs: int = guess["inputs"].numel()
        self.size = self.inputs + (0 if self.loose is None else self.loose.numel())
        self.cost = -(-self.size // COLUMNS)
        self.batched = True

    def vector(self, inputs: Tensor) -> Tensor:
        """These inputs with the labels of the guess, as a vector (size,)."""
        labels = [] if self.loose is None else [self.loose.flatten()]
        return torch.cat([part.to(self.wanted) for part in (inputs.flatten(), *labels)])

    def inputs_of(self, unknowns: Tensor) -> Tensor:
        """The inputs of a vector (B, *shape)."""
        return unknowns[: self.inputs].view(self.shape)

    def values(self, unknowns: Tensor) -> dict[str, Tensor]:
        """A vector as a guess, with labels as a descent has them."""
        found = {"inputs": self.inputs_of(unknowns)}
        if self.loose is not None:
            found["labels"] = self.task.unbounded(self._labels(unknowns))
        return found

    def gradient(self, unknowns: Tensor) -> Tensor:
        """The update that a vector would cause, flat (P,) and differentiable."""
        case = self.problem.case
        if self.loose is not None:
            case = replace(case, labels=self._labels(unknowns))
        gradients = self.problem.gradients({"inputs": self.inputs_of(unknowns)}, case=case)
        return torch.cat([gradient.flatten() for gradient in gradients])

    def linearised(self, unknowns: Tensor) -> _Linearised:
        """Residual (P,) and Jacobian (P, size), by columns: the derivatives of J^T u by u, which it is linear in."""
        with torch.enable_grad():
            leaf = unknowns.detach().requires_grad_()
            made = self.gradient(leaf)
            u = torch.zeros_like(made, requires_grad=True)
            (product,) = torch.autograd.grad(made, leaf, u, create_graph=True)
            jacobian = made.new_empty(self.size, len(made)).detach()
            eye = torch.eye(self.size, dtype=product.dtype, device=product.device)
            for at in range(0, self.size, TOGETHER):
                jacobian[at : at + TOGETHER] = self._columns(product, u, eye[at : at + TOGETHER])
        return _Linearised(unknowns, (made - self.wanted).detach(), jacobian.T)

    def _columns(self, product: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        """The columns that rows of the unit matrix select; one by one once they could not be computed together."""
        if self.batched:
            try:
                return torch.autograd.grad(product, u, rows, retain_graph=True, is_grads_batched=True)[0]
            except RuntimeError:  # an operator cannot, or there is no memory for so many
                self.batched = False
        return torch.stack([torch.autograd.grad(product, u, row, retain_graph=True)[0] for row in rows])

    def _labels(self, unknowns: Tensor) -> Tensor:
        assert self.loose is not None
        return self.task.tightened(unknowns[self.inputs :].view(self.loose.shape))


def _several(space: _Space, start: _Linearised, generator: Generator, progress: Progress, most: int) -> Solution:
    """Starts one after another until one ends in the sample or the iterations are spent."""
    best: Solution | None = None
    problem, spent = space.problem, 0
    while True:
        run = _descended(space, start, most - spent, spent, progress)
        spent += run.spent
        cut = progress.cut(spent, problem.settings.planned) if progress.monitor.should_stop() else None
        values = space.values(run.unknowns)
        found = Solution(values, run.squared, run.squared, tuple(run.points), tuple(run.shots), run.spent, cut)
        others = [] if best is None else [best]
        best = found.beside(others) if not others or found.match < others[0].match else others[0].beside([found])
        if cut or best.match < SOLVED or spent + space.cost >= most:
            return replace(best, cut=cut)
        drawn = problem.domain.start(problem.settings.initialization, space.shape[0], generator)
        start = space.linearised(space.vector(drawn))


def _descended(space: _Space, start: _Linearised, most: int, before: int, progress: Progress) -> _Descent:
    """From one start; ends in the sample, where it crawls, or where the iterations are spent."""
    run, here, damping, mark = _Descent(start.unknowns), start, BEGIN, float("inf")
    while True:
        run.squared = float((here.residual / space.scale).square().sum())
        run.shots.append((run.spent, space.inputs_of(run.unknowns)))
        run.points.append(LossPoint(run.spent, run.squared, run.squared))
        run.spent += space.cost
        done = min(1.0, (before + run.spent) / space.problem.settings.planned)
        if progress.update(done, run.squared) or run.squared < DEEP:
            return run
        if len(run.points) % WINDOW == 0:
            if run.squared > SLOW * mark:
                return run
            mark = run.squared
        moved, damping, tried = _stepped(space, here, damping)
        run.spent += tried
        if moved is None:
            return run
        run.unknowns = moved
        if run.spent + space.cost >= most:
            return run
        here = space.linearised(moved)


def _stepped(space: _Space, here: _Linearised, damping: float) -> tuple[Tensor | None, float, int]:
    """Unknowns that lower the distance, λ for the next step, and the evaluations that it took."""
    square, slope = here.jacobian.T @ here.jacobian, here.jacobian.T @ here.residual
    diagonal = square.diagonal().clamp_min(1e-30 * float(square.diagonal().max()))
    for tried in range(1, REFUSED + 1):
        step, failed = torch.linalg.solve_ex(square + damping * torch.diag(diagonal), -slope)
        moved = here.unknowns + step
        if not int(failed) and bool(torch.isfinite(moved).all()):
            apart = space.gradient(moved).detach() - space.wanted
            if float(apart.norm()) < float(here.residual.norm()):
                return moved, max(damping / FALL, LEAST), tried
        damping *= RISE
    return None, damping, REFUSED


def _rated(problem: GradientMatching, found: Solution) -> Solution:
    """The solution in the problem's own type and range, with its match there."""
    like = next(iter(problem.parameters.values()))
    inside = problem.projected({name: value.to(like) for name, value in found.values.items()})
    shots = tuple((at, inputs.to(like)) for at, inputs in found.shots)
    match = problem.cosine(inside)
    return replace(found, values=inside, match=match, objective=match, shots=shots)
