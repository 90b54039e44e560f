r"""Choose optimiser, distance and prior weight by trials on the model under audit, never by the private batch.

Candidates from a declared list get the same few steps; the better ones get more, from where they were; the best gets
the rest (Jamieson and Talwalkar 2016, arXiv 1502.07943). L-BFGS is ahead after a few steps, and where activations are
not smooth it stays there; so unless its lead is clear the better of its candidates goes on beside all others.
By what they are compared is in `leakaudit.matching.runners`.

With few steps, trials side by side leave none for the winner. Then L-BFGS is tried beside a heavy total variation, and
in small images a light one from where the heavy one is; whichever of them is best goes on. L-BFGS is ahead early
wherever activations are smooth, also where it then moves no further; so it is chosen only while it falls, with its
total variation or, where that holds it, without. In larger images noise can fit the update, so there it must also be
far ahead, or ahead of a heavy total variation that has gone as far as it gets at a quarter of the resolution, where
that begins; and only where that flattens the image is one without tried.

Fails where the truth is not smooth and the update does not determine it; then no weight is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Generator, Tensor

from leakaudit.matching.candidates import (
    CANDIDATES,
    ONE_BIT_CANDIDATES,
    Candidate,
    few,
    larger_than_learnt,
)
from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.runners import Budget, Runner

RUNGS = (40, 160, 480)
"""Steps of each candidate in each round of a search of at least `FULL` steps, in proportion in a shorter one; chosen.
"""
FULL = 4800
"""Steps from which the rounds have their full length; chosen, the authors' own number for IG (arXiv 2003.14053)."""
SHORTEST_RUNG = 20
"""Steps of a candidate in a round, at least; chosen."""
FEWEST = 1000
"""Steps of a search below which candidates follow each other instead of running side by side; chosen: at 32 px, in turn
they end 1.3 dB higher with 600 steps, .7 higher with 1,000 and 1.9 lower with 1,500 (`benchmarks/results/few_steps.md`,
10 to 13 networks). From 64 px on it grows with the side: at 224 px, 600 steps in turn end 4 to 7 dB higher than side by
side, at 64 px 1,500 end 2 dB lower to 3 dB higher (`benchmarks/results/large_images.md`)."""
LARGE = 2.0
"""By how much an image is larger than the weights were chosen on from where `FEWEST` grows with it: 64 px; chosen."""
FINALISTS = 2
"""Candidates in the last round, unless the lead is clear; chosen."""
CLEAR_LEAD = math.log(10)
"""Lead in rank that makes a second rung needless; chosen: a match or a total variation ten times smaller."""
STUCK = 1e-7
"""Cosine distance above which L-BFGS has not found the sample, so that another start is worth the steps left; chosen:
on a LeNet that drops known channels it ends at 1e-5 and 5e-5, which is 30 and 24 dB, from another start at 45 and 50
dB."""
FALLS = math.log(1.5)
"""By how much the rank of L-BFGS has to fall in a second trial for it to be chosen; chosen: of two networks, where it
is stuck it falls by less than a hundredth, where it goes on to 30 dB by 1.2 to 1.8
(`benchmarks/results/large_images.md`, 5 images)."""
ALIKE = math.log(1.1)
"""Two ends whose log matches differ by less are at what noise or a defence leaves, not in local minima; chosen."""
POLISH: dict[str, Any] = {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0}
"""What the winner is refined with, from where it ended, while steps are left, kept if it ranks better; the first of
`CANDIDATES`, whose optimum is the sample by definition."""


def with_trials(iterations: int, sides: Sequence[int]) -> int:
    """Steps of a search that leave so many after all its trials, however long candidates stay in it.

    Args:
        iterations: That are to be left.
        sides: Height and width of an image; of other samples, what there is.
    """
    total, fewest = iterations, _fewest(sides)
    while (wanted := iterations + _most_trials(total, fewest)) > total:
        total = wanted
    return total


def _most_trials(total: int, fewest: float) -> int:
    """Steps of all trials of a search of so many, however long candidates stay in it."""
    if total < fewest:
        return 6 * _short_trial(total)
    tried = (len(CANDIDATES), len(CANDIDATES), FINALISTS)
    return sum(n * _share(steps, total) for n, steps in zip(tried, RUNGS, strict=True))


def _short_trial(total: int) -> int:
    """Steps of a trial in a search of few."""
    return max(SHORTEST_RUNG, total // 10)


def _share(steps: int, total: int) -> int:
    """Steps of a round for each candidate, in a search of so many."""
    return max(SHORTEST_RUNG, min(steps, steps * total // FULL))


def search(
    problem: GradientMatching,
    guess: Mapping[str, Tensor],
    generator: Generator,
    progress: Progress,
    candidates: Sequence[Candidate] | None = None,
) -> tuple[Solution, GradientMatching, tuple[str, ...]]:
    """Find the best candidate within ``problem.settings.iterations`` steps in all, and run it to the end.

    Each further restart that the settings ask for has as many steps, and runs the candidate that was found.

    Args:
        problem: Its settings are the base that candidates change.
        guess: Start of the unknowns; of the candidates with L-BFGS, only the first begins there, and those that follow
            another begin where that one is.
        generator: As for :func:`leakaudit.matching.engine.solve`.
        progress: Where this search lies within the attack.
        candidates: What may win; ``None`` for those that suit the observation.

    Returns:
        The solution, whose `match` is the cosine distance whatever the winner's objective; that objective, as it was
        before it was refined; facts.
    """
    most = problem.settings.iterations
    budget = Budget(problem.settings.planned, generator, progress)
    in_turn = candidates is None and _few_steps(problem) and not problem.observation.one_bit
    candidates = _suitable(problem) if candidates is None else candidates
    tried = _in_turn if in_turn else _side_by_side
    runners, stopped = tried(_at_the_start(problem, guess, candidates, generator), most, budget)
    if stopped:
        return _finish(runners, budget, budget.spent)
    trials, finished = budget.spent, [_ranked(runners)[0]]
    settings = finished[0].problem.settings
    stopped = _run_out(finished[0], budget, most)
    restarts = problem.settings.restarts - 1
    until = most
    while budget.left > 0 and not stopped:
        stuck = settings.optimizer == "lbfgs" and _stuck([runner.match for runner in finished])
        if not (stuck and until - budget.spent > most // 10):
            if restarts == 0:
                break
            restarts, until = restarts - 1, budget.spent + most
        again = _another_start(problem, guess, generator)
        finished.append(Runner(finished[0].candidate, problem.under(settings), again))
        stopped = _run_out(finished[-1], budget, until)
    return _finish([*finished, *(runner for runner in runners if runner.passed_over)], budget, trials)


def _stuck(matches: Sequence[float]) -> bool:
    """Whether descents that ended with these matches are in local minima."""
    lowest, *others = sorted(matches)
    return lowest >= STUCK and not (others and math.log(others[0] / lowest) < ALIKE)


def _few_steps(problem: GradientMatching) -> bool:
    """Whether candidates follow each other."""
    return problem.settings.iterations < _fewest(problem.domain.sides)


def _fewest(sides: Sequence[int]) -> float:
    """`FEWEST` for samples of these sides; a larger image needs more steps for each candidate."""
    return FEWEST * max(1.0, larger_than_learnt(sides) / LARGE)


def _suitable(problem: GradientMatching) -> Sequence[Candidate]:
    """What a search of so many steps tries."""
    if problem.observation.one_bit:
        return ONE_BIT_CANDIDATES
    return few(problem.domain.sides) if _few_steps(problem) else CANDIDATES


def _side_by_side(runners: list[Runner], most: int, budget: Budget) -> tuple[list[Runner], bool]:
    """Successive halving: who is left, and whether to stop."""
    for steps, choose in zip(RUNGS, (_ranked, _one_of_a_kind, _finalists), strict=True):
        runners = choose(runners)
        if len(runners) > 1 and _round(runners, _share(steps, most), budget):
            return runners, True
    return runners, False


def _in_turn(runners: list[Runner], most: int, budget: Budget) -> tuple[list[Runner], bool]:
    """L-BFGS, a heavy total variation, and a light one or none from where the heavy one then is; returns as above.

    In 200 steps a ResNet-18 needs the heavy one, and in 300 a ConvNet the light one, from the first step to the last.
    """
    smooth, heavy, light = runners
    steps = _short_trial(most)
    if budget.advance(smooth, steps) or budget.advance(heavy, steps):
        return runners, True
    if smooth.score < heavy.score:
        falls = _falls(smooth, steps, budget)
        if not (falls or budget.stopped):  # its total variation may be what holds it
            smooth.become(CANDIDATES[0])
            falls = _falls(smooth, steps, budget)
        if budget.stopped:
            return runners, True
        if falls and _clear(smooth, [heavy]):
            return [smooth], False
        smooth.passed_over = not falls
    if len(heavy.candidate.levels) > 1 and not heavy.flat:
        ahead = smooth.score < heavy.score and not smooth.passed_over
        return [smooth, heavy], ahead and _first_level(heavy, budget)
    light.follow(heavy)
    return runners, budget.advance(light, steps) or budget.advance(heavy, steps)


def _falls(runner: Runner, steps: int, budget: Budget) -> bool:
    """Whether a candidate has found the sample after so many further steps, or its rank falls by enough."""
    before = runner.score
    budget.advance(runner, steps)
    return runner.match < STUCK or runner.score <= before - FALLS


def _first_level(runner: Runner, budget: Budget) -> bool:
    """Let a candidate end its coarsest level, of the steps that are left; True when told to stop."""
    _, share = runner.candidate.levels[runner.level]
    stopped = budget.advance(runner, round(share * budget.left))
    runner.level += 1
    return stopped


def _at_the_start(
    problem: GradientMatching, guess: Mapping[str, Tensor], candidates: Sequence[Candidate], generator: Generator
) -> list[Runner]:
    """All candidates; each further L-BFGS at a start of its own, as it sticks at one start and not at another.

    On a LeNet whose masks are known, 12 of 12 searches then found the sample within 2,100 steps, and 10 of 12 before.
    """
    runners: list[Runner] = []
    for candidate in candidates:
        own = problem.under(replace(problem.settings, **candidate.changes))
        smooth = own.settings.optimizer == "lbfgs"
        further = smooth and any(r.problem.settings.optimizer == "lbfgs" for r in runners)
        start = _another_start(problem, guess, generator) if further else dict(guess)
        runners.append(Runner(candidate, own, start))
    return runners


def _another_start(problem: GradientMatching, guess: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """As the guess, with other inputs."""
    fresh = problem.domain.start(problem.settings.initialization, len(guess["inputs"]), generator)
    return {**guess, "inputs": fresh.to(guess["inputs"])}


def _run_out(runner: Runner, budget: Budget, until: int) -> bool:
    """Descend to the end, then refine by `POLISH`, until so many steps are spent in all; True when told to stop."""
    if runner.solution is None and (first := runner.candidate.after):
        heavy = Runner(first, runner.problem.under(replace(runner.problem.settings, **first.changes)), runner.guess)
        if budget.advance(heavy, _short_trial(until - budget.spent)):
            runner.follow(heavy)
            return True
        runner.follow(heavy)
    steps = min(runner.candidate.longest, until - budget.spent)
    levels = runner.candidate.levels[runner.level :]
    whole = sum(share for _, share in levels)
    for later, (_, share) in enumerate(levels):
        runner.level += later > 0
        if budget.advance(runner, round(share / whole * steps)):
            return True
    if runner.lowest < runner.problem.settings.tolerance or runner.problem.observation.one_bit:
        return False
    chosen, before = runner.problem, runner.score
    runner.problem = chosen.under(replace(chosen.settings, **POLISH))
    stopped = budget.advance(runner, until - budget.spent)
    runner.problem = chosen
    if runner.score < before:
        runner.facts.append("refined by L-BFGS on the squared distance, without total variation")
    return stopped


def _round(runners: Sequence[Runner], steps: int, budget: Budget) -> bool:
    """Advance all, or an L-BFGS that is ahead alone, where it converges; True when told to stop."""
    first, *others = runners
    before = first.score
    if budget.advance(first, steps):
        return True
    converges = math.isfinite(before) and first.score < before - CLEAR_LEAD
    if converges and first.problem.settings.optimizer == "lbfgs" and _clear(first, others):
        return False
    return any(budget.advance(runner, steps) for runner in others)


def _ranked(runners: Sequence[Runner]) -> list[Runner]:
    return sorted(runners, key=lambda r: (r.passed_over, r.score))


def _one_of_a_kind(runners: Sequence[Runner]) -> list[Runner]:
    """The better L-BFGS and all others; the best one alone where its lead is clear."""
    first, *others = _ranked(runners)
    if _clear(first, others):
        return [first]
    quick = [r for r in (first, *others) if r.problem.settings.optimizer == "lbfgs"]
    return [r for r in (first, *others) if r not in quick[1:]]


def _finalists(runners: Sequence[Runner]) -> list[Runner]:
    """The best few; the best one alone where its lead is clear."""
    first, *others = _ranked(runners)
    return [first] if _clear(first, others) else [first, *others][:FINALISTS]


def _clear(first: Runner, others: Sequence[Runner]) -> bool:
    """Whether the match of the first settles it; that of signs says little."""
    return not others or (first.score < others[0].score - CLEAR_LEAD and not first.problem.observation.one_bit)


def _finish(
    runners: Sequence[Runner], budget: Budget, trials: int
) -> tuple[Solution, GradientMatching, tuple[str, ...]]:
    winner = min(runners, key=lambda r: r.score)
    if winner.solution is None:
        raise RuntimeError("no candidate has run")
    chosen = f"chosen by its match and total variation after {trials} trial steps: {winner.candidate.label}"
    cut = budget.progress.cut(budget.spent, budget.total) if budget.stopped else None
    solution = replace(winner.solution, given_up=budget.spent - winner.solution.iterations, cut=cut)
    return solution, winner.problem, (chosen, *dict.fromkeys(winner.facts))
