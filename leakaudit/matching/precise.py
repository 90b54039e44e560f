r"""The last descent in float64, where arithmetic is all that is between a guess and the samples.

A client's update of K steps carries one rounding of its weights a step, which many entries average out. A guess in
float32 is rounded as often, at other places for every guess, so that the objective is rough below about
:math:`50\,\epsilon^2` and the descent ends there: at 97 dB on a LeNet of two samples and five steps, where float64 goes
on to 117 dB, and at 92 after one step with masks known, where it goes on to 119 (`benchmarks/results/local_steps.md`).
It costs a few hundred iterations, and is asked for by a tolerance
below what float32 reaches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator

from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.engine import solve
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.runners import chain
from leakaudit.matching.search import POLISH

ROUGH = 1e-10
"""Match below which the rounding of float32 may be what is left; chosen, 200 times where replays of five steps
ended (3e-13 to 6e-13, `benchmarks/results/local_steps.md`)."""


def precisely(
    problem: GradientMatching, solution: Solution, generator: Generator, progress: Progress, planned: int
) -> tuple[Solution, tuple[str, ...]]:
    """Go on in float64 with the iterations that are left, where float32 is what ended a descent; and a fact for the
    report.

    Args:
        problem: The objective that was descended on.
        solution: Where that ended.
        generator: As for :func:`leakaudit.matching.engine.solve`.
        progress: Of the whole attack.
        planned: Iterations of the whole attack.
    """
    left = planned - solution.spent
    reached = min(solution.match, solution.objective)
    rough = problem.settings.tolerance < reached < ROUGH
    seen = problem.observation
    exact = all(value.dtype == torch.float64 for value in solution.values.values())
    if solution.cut or left <= 0 or not rough or exact or not seen.plain:
        return solution, ()
    begun = {name: value.double() for name, value in solution.values.items()}
    part = progress.share(solution.spent / planned, left / planned)
    try:
        (found,), _ = solve(
            problem.in_float64(replace(problem.settings, **POLISH, iterations=left, execution="eager")),
            [begun],
            generator,
            part,
        )
    except RuntimeError:  # the module takes its own type only
        return solution, ()
    found.values = {name: value.to(solution.values[name]) for name, value in found.values.items()}
    return chain(solution, found, better=True), ("refined in float64",)
