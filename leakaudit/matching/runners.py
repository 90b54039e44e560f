r"""Candidates of a search on their way, how far each may go, and by what they are compared.

Objectives with different weights cannot be compared by their values, so candidates are ranked by

.. math:: s(x) = \log D_{\cos}(g(x), g^*) + \log \max(TV(x), c), \qquad c = 0.5

the minimum-product form of the L-curve (Regińska 1996, doi 10.1137/S1064827593252672): a heavier prior must buy more
smoothness than it costs in match. The constant is about the total variation of a photograph in normalised space, less
in larger images: to be smoother than that is no merit. Where the update determines the samples the match falls by
orders of magnitude and decides alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Generator, Tensor

from leakaudit.matching.candidates import Candidate, larger_than_learnt
from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.engine import solve
from leakaudit.matching.problem import GradientMatching

USUAL = 0.5
"""c: total variation of a photograph in normalised space; chosen: nine in ten of 400 CIFAR-10 test images have 0.25 to
0.67."""
THINS = 0.4
"""How c falls with the side of a larger image, an exponent; chosen: the median total variation of 200 photographs is
.54 at 32 px, .40 at 64, .29 at 128 and at 224."""
FLAT = 0.2
"""Share of c below which an image is much smoother than a photograph: its total variation weighed too much; chosen:
on two networks at 64 px, where a match of 1e-7 is all that an update shows (sigmoids) it is a twentieth, on a small
VGG two thirds."""


def rank(match: float, variation: float, larger: float = 1.0) -> float:
    """s(x) from the cosine distance over the whole update and the roughness; the lower, the better.

    Args:
        match: The distance.
        variation: The roughness.
        larger: By how much an image is larger than the weights were chosen on, see `candidates.larger_than_learnt`.
    """
    return math.log(match + 1e-30) + math.log(max(variation, usual(larger)))


def usual(larger: float) -> float:
    """c, of an image that is so much larger than the weights were chosen on."""
    return float(USUAL * larger**-THINS)


@dataclass(eq=False)
class Runner:
    """A candidate on its way: its objective, where it is, and what it has cost.

    `passed_over` says that another goes on, however this one ranks; `flat` that it ended much smoother than a
    photograph; `level` is the one of the candidate's that it is on.
    """

    candidate: Candidate
    problem: GradientMatching
    guess: dict[str, Tensor]
    score: float = math.inf
    solution: Solution | None = None
    facts: list[str] = field(default_factory=list)
    passed_over: bool = False
    flat: bool = False
    level: int = 0

    @property
    def iterations(self) -> int:
        """Steps so far."""
        return 0 if self.solution is None else self.solution.iterations

    @property
    def match(self) -> float:
        """Cosine distance of the best so far."""
        return math.inf if self.solution is None else self.solution.match

    @property
    def lowest(self) -> float:
        """Match or objective, whichever is lower: what ends a descent."""
        return self.match if self.solution is None else min(self.match, self.solution.objective)

    def become(self, other: Candidate) -> None:
        """Go on as another candidate from here."""
        self.candidate, settings = other, replace(self.problem.settings, **other.changes)
        self.problem = self.problem.under(settings)

    def follow(self, other: Runner) -> None:
        """Begin where another candidate is."""
        self.solution, self.score, self.guess, self.facts = other.solution, other.score, other.guess, [*other.facts]

    def advance(self, iterations: int, generator: Generator, progress: Progress) -> Solution:
        """Descend further from the best so far, and rank the result."""
        self.problem.settings = replace(self.problem.settings, iterations=iterations)
        problem = self.problem.coarser(self.candidate.levels[self.level][0])
        (found,), facts = solve(problem, [problem.coarse(self.guess)], generator, progress)
        found.values = problem.fine(found.values)
        found.shots = tuple((at, problem.fine({"inputs": inputs})["inputs"]) for at, inputs in found.shots)
        self.facts += facts
        inside = self.problem.projected(found.values)
        found.match = self.problem.cosine(inside)
        domain = self.problem.domain
        variation, larger = float(domain.roughness(inside["inputs"])), larger_than_learnt(domain.sides)
        score, self.flat = rank(found.match, variation, larger), variation < FLAT * usual(larger)
        if self.solution is not None:
            found = chain(self.solution, found, better=score < self.score)
        self.solution, self.score, self.guess = found, min(score, self.score), found.values
        return found


@dataclass(eq=False)
class Budget:
    """The steps of a search, where it lies within the attack, and whether it was told to stop."""

    total: int
    generator: Generator
    progress: Progress
    spent: int = 0
    stopped: bool = False

    @property
    def left(self) -> int:
        """Steps not spent yet."""
        return self.total - self.spent

    def advance(self, runner: Runner, iterations: int) -> bool:
        """Let a candidate do so many steps, as far as they are left; True when told to stop."""
        iterations = min(iterations, self.left)
        if iterations <= 0:
            return False
        width = (self.progress.end - self.progress.begin) / self.total
        begin = self.progress.begin + width * self.spent
        before = runner.iterations
        found = runner.advance(
            iterations, self.generator, replace(self.progress, begin=begin, end=begin + width * iterations)
        )
        self.spent += runner.iterations - before
        self.stopped = found.cut is not None
        return self.stopped


def chain(first: Solution, then: Solution, *, better: bool) -> Solution:
    """One descent out of two that follow each other; the better values stay."""
    shifted = tuple(replace(p, iteration=p.iteration + first.iterations) for p in then.history)
    best = then if better else first
    return replace(
        best,
        history=first.history + shifted,
        shots=first.shots + tuple((at + first.iterations, inputs) for at, inputs in then.shots),
        iterations=first.iterations + then.iterations,
        cut=then.cut,
        given_up=first.given_up + then.given_up,
    )
