r"""Levenberg-Marquardt for few unknowns: where a descent by gradients crawls, all directions are corrected at once.

An update may determine a sample and hardly show parts of it: the early steps of a sequence reach the last state of a
GRU a thousand times weaker than the late ones. The squared distance then has a long and narrow valley, in which L-BFGS
ends. With few unknowns the Jacobian J of the update is cheap, a backward pass for each, and the step s of

.. math:: (J^\top J + \lambda\, \mathrm{diag}\, J^\top J)\, s = -J^\top r

with the residual r follows the valley (Levenberg 1944; Marquardt 1963, doi 10.1137/0111030), in float64, since
:math:`J^\top J` squares what the directions differ by. λ falls after each step that lowers the distance and rises after
each that does not. Starts are tried one after another while the steps of this part last: one in two ends in the
sample on such a GRU (`benchmarks/results/recurrent.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.problem import GradientMatching
from leakaudit.reconstruction import LossPoint

MOST = 64
"""Unknowns up to which it is tried; chosen: a Jacobian then costs as much as twenty steps of Adam."""
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

    inputs: Tensor
    spent: int = 0
    squared: float = float("inf")
    points: list[LossPoint] = field(default_factory=list)
    shots: list[tuple[int, Tensor]] = field(default_factory=list)


def levenberg_marquardt(
    problem: GradientMatching, guess: Mapping[str, Tensor], generator: Generator, progress: Progress
) -> Solution | None:
    """The best of several starts; ``None`` where unknowns are too many or the update is not the gradient alone.

    Args:
        problem: Its settings say how many iterations the whole search has; a Jacobian counts as one for each unknown.
        guess: The first start; further ones are drawn.
        generator: CPU generator of those.
        progress: Of the whole search.
    """
    seen = problem.observation
    few = set(guess) == {"inputs"} and guess["inputs"].numel() <= MOST
    if not few or not seen.plain or seen.one_bit or seen.protocol.steps > 1 or problem.masks or problem.priors:
        return None
    most = int(SHARE * problem.settings.iterations)
    if guess["inputs"].numel() >= most:
        return None
    try:
        fine = problem.in_float64(problem.settings)
        found = _several(fine, guess["inputs"], generator, progress, most)
    except RuntimeError:  # the module takes its own type only
        return None
    return None if found is None else _rated(problem, found)


def _several(
    problem: GradientMatching, start: Tensor, generator: Generator, progress: Progress, most: int
) -> Solution | None:
    """Starts one after another until one ends in the sample or the iterations are spent."""
    best: Solution | None = None
    spent, inputs = 0, start
    while spent + start.numel() < most:
        run = _descended(problem, inputs.double(), most - spent, spent, progress)
        spent += run.spent
        cut = progress.cut(spent, problem.settings.planned) if progress.monitor.should_stop() else None
        found = Solution(
            {"inputs": run.inputs}, run.squared, run.squared, tuple(run.points), tuple(run.shots), run.spent, cut
        )
        others = [] if best is None else [best]
        best = found.beside(others) if not others or found.match < others[0].match else others[0].beside([found])
        if cut or best.match < SOLVED:
            return replace(best, cut=cut)
        inputs = problem.domain.start(problem.settings.initialization, len(start), generator).to(start)
    return best


def _descended(problem: GradientMatching, inputs: Tensor, most: int, before: int, progress: Progress) -> _Descent:
    """From one start; ends in the sample, where it crawls, or where the iterations are spent."""
    run, damping, mark = _Descent(inputs), BEGIN, float("inf")
    size, wanted = inputs.numel(), torch.cat([tensor.flatten() for tensor in problem.case.observed])
    scale = float(wanted.norm())
    while run.spent + size < most:
        residual, jacobian = _linearised(problem, run.inputs, wanted)
        run.squared = float((residual / scale).square().sum())
        run.shots.append((run.spent, run.inputs))
        run.points.append(LossPoint(run.spent, run.squared, run.squared))
        run.spent += size
        total = problem.settings.iterations
        if progress.update(min(1.0, (before + run.spent) / total), run.squared) or run.squared < DEEP:
            break
        if len(run.points) % WINDOW == 0:
            if run.squared > SLOW * mark:
                break
            mark = run.squared
        moved, damping, tried = _stepped(problem, run, residual, jacobian, wanted, damping)
        run.spent += tried
        if moved is None:
            break
        run.inputs = moved
    return run


def _stepped(
    problem: GradientMatching,
    run: _Descent,
    residual: Tensor,
    jacobian: Tensor,
    wanted: Tensor,
    damping: float,
) -> tuple[Tensor | None, float, int]:
    """Inputs that lower the distance, λ for the next step, and the evaluations that it took."""
    square, slope = jacobian.T @ jacobian, jacobian.T @ residual
    diagonal = square.diagonal().clamp_min(1e-30 * float(square.diagonal().max()))
    for tried in range(1, REFUSED + 1):
        step, failed = torch.linalg.solve_ex(square + damping * torch.diag(diagonal), -slope)
        moved = run.inputs + step.view_as(run.inputs)
        if not int(failed) and bool(torch.isfinite(moved).all()):
            apart = _gradient(problem, moved) - wanted
            if float(apart.norm()) < float(residual.norm()):
                return moved, max(damping / FALL, LEAST), tried
        damping *= RISE
    return None, damping, REFUSED


def _gradient(problem: GradientMatching, inputs: Tensor) -> Tensor:
    """The update that a guess would cause, flat and without a graph."""
    return torch.cat([gradient.detach().flatten() for gradient in problem.gradients({"inputs": inputs})])


def _linearised(problem: GradientMatching, inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Residual (P,) and Jacobian (P, unknowns), by columns: the derivatives of J^T u by u, which it is linear in."""
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        made = torch.cat([gradient.flatten() for gradient in problem.gradients({"inputs": leaf})])
        u = torch.zeros_like(made, requires_grad=True)
        (product,) = torch.autograd.grad(made, leaf, u, create_graph=True)
        columns = [torch.autograd.grad(entry, u, retain_graph=True)[0] for entry in product.flatten()]
    return (made - wanted).detach(), torch.stack(columns, 1)


def _rated(problem: GradientMatching, found: Solution) -> Solution:
    """The solution in the problem's own type and range, with its match there."""
    like = next(iter(problem.parameters.values()))
    inside = problem.projected({"inputs": found.values["inputs"].to(like)})
    shots = tuple((at, inputs.to(like)) for at, inputs in found.shots)
    match = problem.cosine(inside)
    return replace(found, values=inside, match=match, objective=match, shots=shots)
