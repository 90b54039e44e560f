r"""Inputs and dropout masks together: by Adam as DIA's authors do, or, where activations are smooth, by L-BFGS.

Without limits on the masks m, the update fixes the *masked activations* :math:`t_l = m_l \odot h_l(x)` of a layer far
sooner than inputs or masks by themselves. So the descent by L-BFGS has two stages:

1. L-BFGS on the squared distance over inputs and unlimited masks, without priors. Its inputs are no images yet, but its
   :math:`t_l` are nearly right: on a LeNet with dropout on the first map, 5 % off after 700 evaluations.
2. The share p_l of the units with the smallest |t_l| is dropped, the others are kept, and the inputs alone are refined
   under a total variation. Then a unit is kept where :math:`t_l h_l(x) > h_l(x)^2 / 2`, and the inputs are refined
   again, as often as steps are left.

Its solution counts by its match under masks of zeros and ones plus the total variation: masks in between can match
nearly anything. Fails where the match has no useful curvature (ReLU), and where single units do not show in the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from leakaudit.matching.descent import Progress, Solution, best_of
from leakaudit.matching.engine import solve
from leakaudit.matching.problem import MASK, GradientMatching
from leakaudit.matching.runners import chain
from leakaudit.target.dropout import dropout_layers

FREE: dict[str, Any] = {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0}
"""Changes of the first stage: L-BFGS on the squared distance, without priors by definition."""
SMOOTH = 1e-3
"""Total variation of the second stage. On a victim of the LeNet of `benchmarks/anchors.py` with dropout on its first
map it gives 25 dB, where 1e-4 gives 19 and 1e-2 gives 22."""
FREE_SHARE = 0.5
"""Of the steps of this descent, for its first stage; chosen, not measured."""
REFINEMENTS = 2
"""Rounds of choosing masks and refining inputs; chosen, not measured."""
POLISH_SHARE = 0.2
"""Of the steps of the authors' descent, to refine the inputs under rounded masks; chosen, not measured."""
BETTER = "L-BFGS matched better than signed Adam"
LONG = 3000
"""Steps that are enough for both ways; chosen: on a LeNet with dropout on its first map, Adam is ahead after 300 steps
of each and ends at 15 dB, where L-BFGS ends by itself after 2,200, at 27 dB or more."""
TRIAL_SHARE = 0.05
"""Of the steps, for each of the two ways down; chosen, not measured."""
FEW = 100_000
"""Unknown mask entries up to which L-BFGS is tried; chosen for memory: it keeps 100 vectors of that size, 40 MB."""


def cost(problem: GradientMatching, values: Mapping[str, Tensor]) -> float:
    """Cosine distance plus roughness of inputs that are moved into their range first."""
    inside = values["inputs"].clone()
    problem.project(["inputs"], [inside])
    return problem.cosine({**values, "inputs": inside}) + SMOOTH * float(problem.domain.roughness(inside))


def masked_activations(problem: GradientMatching, values: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Input h and mask m of every dropout whose mask is unknown, by ``step/layer``; each at its step's weights."""
    masks = {name.removeprefix(MASK): value for name, value in values.items() if name.startswith(MASK)}
    seen = _Seen()
    module = problem.target.module
    handles = [module.register_forward_pre_hook(seen.begin)]
    handles += [layer.register_forward_pre_hook(seen.hook(name)) for name, layer in dropout_layers(module).items()]
    try:
        problem.observation.protocol.update(problem.target, problem.play(values))
    finally:
        for handle in handles:
            handle.remove()
    return {key: (seen.inputs[key], mask) for key, mask in masks.items()}


@dataclass(eq=False)
class _Seen:
    """Inputs of dropout layers by ``step/layer``; a step is a forward of the whole module."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    step: int = -1
    calls: dict[str, int] = field(default_factory=dict)

    def begin(self, *_: Any) -> None:
        """A step."""
        self.step += 1
        self.calls.clear()

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """Of one layer."""

        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            number = self.calls[name] = self.calls.get(name, -1) + 1
            self.inputs[f"{self.step}/{name}" if number == 0 else f"{self.step}/{name}#{number}"] = inputs[0].detach()

        return note


def drop_smallest(activation: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Zeros for the share `rate` of the units of each sample that pass the least on, ones for the others.

    A mask of whole channels (B, C, 1, 1) is judged by the norm of the channel.
    """
    passed = (mask * activation).square()
    spread = [axis for axis in range(1, passed.dim()) if mask.shape[axis] == 1 and passed.shape[axis] > 1]
    strength = (passed.sum(spread, keepdim=True) if spread else passed).flatten(1)
    dropped = strength.argsort(1)[:, : round(rate * strength.shape[1])]
    return torch.ones_like(strength).scatter(1, dropped, 0.0).reshape(mask.shape)


def keep_what_passed(passed: Tensor, activation: Tensor, shape: torch.Size) -> Tensor:
    """Ones for the units whose known output m ⊙ h is nearer to h than to 0, zeros for the others."""
    excess = (passed - 0.5 * activation) * activation
    spread = [axis for axis in range(1, excess.dim()) if shape[axis] == 1 and excess.shape[axis] > 1]
    return ((excess.sum(spread, keepdim=True) if spread else excess) > 0).to(activation)


def find_masks(
    problem: GradientMatching,
    guesses: Sequence[Mapping[str, Tensor]],
    rates: Mapping[str, float],
    generator: Generator,
    progress: Progress,
) -> tuple[Solution, tuple[str, ...]]:
    """Inputs and masks, from every guess, in at most as many iterations as the settings of the problem say for each.

    Where masks are free and few, L-BFGS and the authors' descent are tried for some steps each,
    from the first guess, and the cheaper goes on. With many steps L-BFGS goes on in any case, and Adam where that has
    not become cheaper.

    Args:
        problem: With the prior on the masks that the authors' descent follows.
        guesses: Starts of inputs and masks, one per restart.
        rates: Dropout probability of the masks to find, by ``step/layer``.
        generator: As for :func:`leakaudit.matching.engine.solve`.
        progress: Where this lies within the attack.

    Returns:
        The best solution, and facts for the report.
    """
    total = problem.settings.iterations
    steps = round(TRIAL_SHARE * total)
    entries = sum(value.numel() for name, value in guesses[0].items() if name.startswith(MASK))
    if not (steps and 0 < entries <= FEW):
        return _stop_told(*_by_adam(problem, guesses, generator, progress), total * len(guesses))
    free = problem.under(problem.settings, priors=())
    trials: list[Solution] = []
    for number, (way, changes) in enumerate(((free, FREE), (problem, {}))):
        trial = way.under(replace(problem.settings, **changes, iterations=steps, schedule="constant"))
        (found,), _ = solve(trial, guesses[:1], generator, progress.share(number * TRIAL_SHARE, TRIAL_SHARE))
        trials.append(found)
        if found.cut:
            best = cheapest([with_settled_masks(free, trial, rates) for trial in trials])
            return _stop_told(replace(best, cut=found.cut), (), total * len(guesses))
    rest = progress.share(2 * TRIAL_SHARE, 1 - 2 * TRIAL_SHARE)
    return _stop_told(*_after_trials(problem, free, guesses, trials, rates, generator, rest), total * len(guesses))


def _after_trials(
    problem: GradientMatching,
    free: GradientMatching,
    guesses: Sequence[Mapping[str, Tensor]],
    trials: Sequence[Solution],
    rates: Mapping[str, float],
    generator: Generator,
    progress: Progress,
) -> tuple[Solution, tuple[str, ...]]:
    """L-BFGS if it is ahead, or if there is time for both; Adam if that has not ended below Adam's trial."""
    smooth, signed = trials
    total = problem.settings.iterations
    spare, mark = total - smooth.iterations - signed.iterations, cost(free, signed.values)
    ahead = cost(free, smooth.values) < mark
    first = spare if ahead else spare // 2 if total >= LONG else 0
    tried, left = replace(smooth, objective=math.inf), spare
    facts: tuple[str, ...] = (BETTER,)
    if first:
        limited = free.under(replace(problem.settings, iterations=first))
        begun = [smooth, *(Solution(dict(guess), math.inf, math.inf) for guess in guesses[1:])]
        tried, noticed = _by_lbfgs(limited, begun, rates, generator, progress.share(0.0, first / spare))
        facts += noticed
        left = spare - (tried.spent - smooth.spent) // len(guesses)
        if tried.cut or tried.objective < mark or left < total // 4:
            best = cheapest([tried, with_settled_masks(free, signed, rates)])
            return replace(best, cut=tried.cut), facts
    remaining = problem.under(replace(problem.settings, iterations=left))
    part = progress.share(1 - left / spare, left / spare)
    found, noticed = _by_adam(remaining, [signed.values, *guesses[1:]], generator, part)
    found = chain(signed, found, better=True)
    found.objective = cost(free, found.values)
    best = replace(cheapest([tried, found]), cut=found.cut)
    return best, facts if tried.objective < found.objective else noticed


def _stop_told(solution: Solution, facts: tuple[str, ...], total: int) -> tuple[Solution, tuple[str, ...]]:
    """With the iterations of the whole attack, instead of the part in which it was stopped."""
    if solution.cut:
        solution = replace(solution, cut=replace(solution.cut, done=solution.spent, planned=total))
    return solution, facts


def cheapest(solutions: Sequence[Solution]) -> Solution:
    """The one with the smallest objective, after the others were given up for it."""
    best = min(range(len(solutions)), key=lambda i: solutions[i].objective)
    return solutions[best].beside([*solutions[:best], *solutions[best + 1 :]])


def with_settled_masks(problem: GradientMatching, solution: Solution, rates: Mapping[str, float]) -> Solution:
    """With masks of zeros and ones (see `drop_smallest`) and inputs in range; its objective is what that costs."""
    layers = masked_activations(problem, solution.values)
    inside = solution.values["inputs"].clone()
    problem.project(["inputs"], [inside])
    values = {"inputs": inside, **{MASK + n: drop_smallest(*layers[n], rates[n]) for n in layers}}
    return replace(solution, values=values, match=problem.cosine(values), objective=cost(problem, values))


def _by_adam(
    problem: GradientMatching, guesses: Sequence[Mapping[str, Tensor]], generator: Generator, progress: Progress
) -> tuple[Solution, tuple[str, ...]]:
    """Masks in 0..1 by Adam from every guess; then they are rounded and the best inputs refined."""
    total = problem.settings.iterations
    last = round(POLISH_SHARE * total)
    descending = problem.under(replace(problem.settings, iterations=total - last))
    solutions, facts = solve(descending, guesses, generator, progress.share(0.0, 1 - POLISH_SHARE))
    best = replace(best_of(solutions), cut=solutions[-1].cut)
    if best.cut or not last:
        return best, facts
    refined = round_and_refine(descending, best, last, generator, progress.share(1 - POLISH_SHARE, POLISH_SHARE))
    better = refined.match < best.match
    if better:
        facts = (*facts, "masks rounded and inputs refined" if len(guesses[0]) > 1 else "inputs refined")
    return chain(best, refined, better=better), facts


def _by_lbfgs(
    problem: GradientMatching,
    begun: Sequence[Solution],
    rates: Mapping[str, float],
    generator: Generator,
    progress: Progress,
) -> tuple[Solution, tuple[str, ...]]:
    """`smooth_joint` from every start; the cheapest."""
    found: list[Solution] = []
    facts: list[str] = []
    for number, start in enumerate(begun):
        part = progress.share(number / len(begun), 1 / len(begun))
        solution, noticed = smooth_joint(problem, start, rates, generator, part)
        found.append(solution)
        facts += noticed
        if solution.cut:
            break
    return replace(cheapest(found), cut=found[-1].cut), tuple(dict.fromkeys(facts))


def smooth_joint(
    problem: GradientMatching,
    start: Solution,
    rates: Mapping[str, float],
    generator: Generator,
    progress: Progress,
) -> tuple[Solution, tuple[str, ...]]:
    """Both stages, in ``problem.settings.iterations`` evaluations.

    Args:
        problem: Known masks and the base of the settings; without priors on the masks.
        start: Inputs and masks to go on from.
        rates: Dropout probability of the masks to find.
        generator: As for :func:`leakaudit.matching.engine.solve`.
        progress: Where this lies within the attack.

    Returns:
        The best solution with masks of zeros and ones, its match as cosine distance; facts for the report.
    """
    total = problem.settings.iterations
    first = max(1, round(FREE_SHARE * total))
    free = problem.under(replace(problem.settings, **FREE, iterations=first))
    (found,), facts = solve(free, [start.values], generator, progress.share(0.0, FREE_SHARE))
    joint = chain(start, found, better=True)
    passed = {name: mask * activation for name, (activation, mask) in masked_activations(problem, joint.values).items()}
    path = with_settled_masks(problem, joint, rates)
    each = (total - first) // REFINEMENTS
    inputs = joint.values["inputs"]  # refined from outside its range, where the match is
    for number in range(REFINEMENTS if each else 0):
        if path.cut:
            break
        part = progress.share(FREE_SHARE + (1 - FREE_SHARE) * number / REFINEMENTS, (1 - FREE_SHARE) / REFINEMENTS)
        masks = {n.removeprefix(MASK): value for n, value in path.values.items() if n.startswith(MASK)}
        if number:
            activations = masked_activations(problem, path.values)
            masks = {name: keep_what_passed(passed[name], h, m.shape) for name, (h, m) in activations.items()}
        refined = _descend(problem, inputs, masks, each, SMOOTH, generator, part)
        refined.match, refined.objective = problem.cosine(refined.values), cost(problem, refined.values)
        better = refined.objective < path.objective
        path = chain(path, refined, better=better)
        if not better:
            break
        inputs = path.values["inputs"]
    return path, facts


def round_and_refine(
    problem: GradientMatching, best: Solution, iterations: int, generator: Generator, progress: Progress
) -> Solution:
    """Round masks of 0..1, refine the inputs by L-BFGS, and measure the match in the same distance as before."""
    rounded = {n.removeprefix(MASK): v.round() for n, v in best.values.items() if n.startswith(MASK)}
    found = _descend(problem, best.values["inputs"], rounded, iterations, 0.0, generator, progress)
    found.match = float(problem.objective(found.values)[1].detach())
    return found


def _descend(
    problem: GradientMatching,
    inputs: Tensor,
    masks: Mapping[str, Tensor],
    iterations: int,
    tv_weight: float,
    generator: Generator,
    progress: Progress,
) -> Solution:
    """Inputs under fixed masks by L-BFGS; moved into their range, and together with the masks."""
    settings = replace(problem.settings, **{**FREE, "tv_weight": tv_weight}, iterations=iterations)
    refining = problem.under(settings, masks={**problem.masks, **masks})
    (found,), _ = solve(refining, [{"inputs": inputs}], generator, progress)
    inside = found.values["inputs"].clone()
    problem.project(["inputs"], [inside])
    found.values = {"inputs": inside, **{MASK + name: mask for name, mask in masks.items()}}
    return found
