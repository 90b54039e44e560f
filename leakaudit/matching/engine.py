"""Gradient matching by optimisation: the engine that all optimisation attacks share.

``minimize`` draws the starts, plans the iterations from a measured step where there is a time budget, descends from
every start, and keeps the restart with the smallest match, without priors. Nothing here knows the private batch: the
objective is the only judge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Generator, Tensor

from leakaudit.document.status import Cause, Cut, Lost
from leakaudit.matching.descent import SNAPSHOT_FRACTIONS, Progress, Solution, adam, best_of, lbfgs
from leakaudit.matching.memory import restarts_that_fit
from leakaudit.matching.priors import Prior
from leakaudit.matching.problem import MASK, Case, GradientMatching
from leakaudit.matching.settings import MatchSettings
from leakaudit.matching.step import COMPILE_AFTER, COMPILE_LARGE_AFTER, Mode, Step, choose_mode
from leakaudit.observation import Observation
from leakaudit.reconstruction import Monitor, Reconstruction, Snapshot
from leakaudit.target.dropout import by_step
from leakaudit.target.size import is_small
from leakaudit.target.target import Target

__all__ = [
    "GradientMatching",
    "MatchSettings",
    "goes_together",
    "label_start",
    "measure_part",
    "measure_step",
    "minimize",
    "minimize_together",
    "plan",
    "prepare",
    "smooth_enough",
    "solve",
    "starts",
    "to_reconstruction",
    "within_time",
]

S = TypeVar("S", bound=MatchSettings)
PLANNING_STEPS = 3
"""Steps that are timed to plan a time budget, after one to warm up; chosen."""
LONG_STEP = 1.0
"""Seconds of measured steps after which no more are timed; chosen: they cost what they are to plan."""
LONG_WARM_UP = 10.0
"""Seconds from which the first step is the measure; chosen: what is loaded in it takes a second or two on a GPU."""
PLANNED_SHARE = 0.9
"""Of the time left, what a plan fills with steps; chosen: a machine is not equally fast all the time."""
ONE_BIT_TV = 3e-2
"""Least weight of the total variation where only signs are known; chosen on the demo's network (24 dB, 11 with 1e-4);
on a LeNet it gives 21.5 dB, 1e-2 gives 23.9 and 1e-4 gives 14.7 (`benchmarks/results/constants.md`, 4 images)."""


def starts(observation: Observation, settings: MatchSettings, generator: Generator, like: Tensor) -> list[Tensor]:
    """One start per restart; the first is what an earlier attack found, where there is something."""
    drawn = [
        observation.domain.start(settings.initialization, observation.batch_size, generator)
        for _ in range(settings.restarts)
    ]
    if observation.start is not None:
        drawn[0] = observation.start
    return [start.to(like.device, like.dtype) for start in drawn]


def prepare(
    target: Target,
    observation: Observation,
    settings: MatchSettings,
    generator: Generator,
    monitor: Monitor,
    *,
    priors: Sequence[Prior] = (),
    masks: Mapping[str, Tensor] | None = None,
    possible: Mapping[str, Tensor] | None = None,
    extra: Callable[[], Mapping[str, Tensor]] = dict,
) -> tuple[GradientMatching, list[dict[str, Tensor]], tuple[Cut, ...]]:
    """The problem with the iterations that there is time for, a guess per restart, and what the plan lost.

    Args:
        target: The model, in the mode of the protocol.
        observation: With labels (B,), given or inferred.
        settings: See :class:`MatchSettings`.
        generator: CPU generator of the starts.
        monitor: Knows the time left.
        priors: Further terms of the objective.
        masks: Known dropout masks by ``step/layer``.
        possible: See :class:`GradientMatching`.
        extra: Draws further unknowns for a restart: ``labels`` (B, …) before the task relaxes them,
            ``mask:step/layer`` (B, …).

    Raises:
        ValueError: The observation has no labels.
    """
    labels = _labels(observation)
    problem = GradientMatching(target, observation, labels, settings, priors=priors, masks=masks, possible=possible)
    like = next(iter(problem.parameters.values()))
    begin = label_start(problem)
    guesses = [
        {"inputs": start, **begin, **{name: value.to(like.device) for name, value in extra().items()}}
        for start in starts(observation, settings, generator, like)
    ]
    problem.settings, cuts = within_time(problem, settings, guesses[0], monitor)
    return problem, guesses, cuts


def label_start(problem: GradientMatching) -> dict[str, Tensor]:
    """What labels begin with that are unknowns too; nothing where they are none."""
    if not problem.observation.open_labels:
        return {}
    return {"labels": problem.target.task.free(problem.labels).to(next(iter(problem.parameters.values())))}


def within_time(
    problem: GradientMatching, settings: S, guess: Mapping[str, Tensor], monitor: Monitor
) -> tuple[S, tuple[Cut, ...]]:
    """The settings with the iterations that there is time for, and what that costs."""
    planned = plan(problem, guess, monitor.seconds_left())
    if planned >= settings.iterations:
        return settings, ()
    return replace(settings, iterations=planned), (Cut(Lost.PLAN, Cause.BUDGET, planned, settings.iterations),)


def _labels(observation: Observation) -> Tensor:
    if observation.labels is None:
        raise ValueError("gradient matching needs labels: infer them first")
    return observation.labels


def smooth_enough(settings: S, observation: Observation) -> tuple[S, tuple[str, ...]]:
    """With the total variation that an update of signs needs, for settings that no search chooses; and a note on it."""
    if not observation.one_bit or settings.tv_weight >= ONE_BIT_TV:
        return settings, ()
    note = f"total variation raised to {ONE_BIT_TV:g}: the update shows signs only, and the prior must do the rest"
    return replace(settings, tv_weight=ONE_BIT_TV), (note,)


def minimize(
    target: Target,
    observation: Observation,
    settings: MatchSettings,
    generator: Generator,
    monitor: Monitor,
    *,
    priors: Sequence[Prior] = (),
    masks: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Reconstruction:
    """Match the observed update, from `restarts` independent starts.

    Args:
        target: As of :func:`prepare`, like `settings`, `generator`, `priors` and `masks`.
        observation: See there.
        settings: See there.
        generator: See there.
        monitor: Told the progress; may ask to stop, and then the best so far is returned.
        priors: See there.
        masks: See there.
        extra: Starts of further unknowns, the same for every restart.

    Raises:
        ValueError: The observation has no labels.
    """
    settings, raised = smooth_enough(settings, observation)
    known = extra or {}
    problem, guesses, cuts = prepare(
        target, observation, settings, generator, monitor, priors=priors, masks=masks, extra=lambda: known
    )
    solutions, facts = solve(problem, guesses, generator, Progress(monitor))
    return to_reconstruction(problem, solutions, raised + facts, cuts)


def minimize_together(
    target: Target,
    observations: Sequence[Observation],
    settings: MatchSettings,
    generators: Sequence[Generator],
    monitor: Monitor,
    *,
    priors: Sequence[Prior] = (),
    masks: Sequence[Mapping[str, Tensor]] = (),
) -> list[Reconstruction] | None:
    """As :func:`minimize`, for several victims of one model in one step, each with its own starts.

    Args:
        target: As of :func:`minimize`, like `settings`, `monitor` and `priors`, which all victims share.
        observations: One per victim.
        settings: See there.
        generators: One per victim.
        monitor: See there.
        priors: See there.
        masks: Known dropout masks by ``step/layer``, of each victim.

    Returns:
        A reconstruction per victim, up to the last that was begun before a stop; ``None`` where :func:`goes_together`
        says no.
    """
    if not goes_together(target, observations, settings, monitor):
        return None
    problems = []
    for observation, known in zip(observations, masks or [{}] * len(observations), strict=True):
        labels = _labels(observation)
        problems.append(GradientMatching(target, observation, labels, settings, priors=priors, masks=known))
    like = next(iter(problems[0].parameters.values()))
    drawn = [starts(o, settings, g, like) for o, g in zip(observations, generators, strict=True)]
    guesses = [{"inputs": start} for own in drawn for start in own]
    cases = [problem.case for problem in problems for _ in range(settings.restarts)]
    solutions, facts = solve(problems[0], guesses, generators[0], Progress(monitor), cases)
    facts = (*facts, f"{len(observations)} victims attacked together")
    own = [solutions[i : i + settings.restarts] for i in range(0, len(solutions), settings.restarts)]
    return [to_reconstruction(p, found, facts) for p, found in zip(problems, own, strict=False)]


def goes_together(
    target: Target, observations: Sequence[Observation], settings: MatchSettings, monitor: Monitor
) -> bool:
    """Whether :func:`minimize_together` attacks these victims in one step.

    Not where that is no faster (on a CPU a step of several victims must be compiled), there is a time budget to share
    out, or one victim could influence another, as by a criterion to stop or a defence that is told from the update.
    """
    planned = settings.planned * len(observations)
    mode = choose_mode(planned) if settings.execution == "auto" else settings.execution
    cuda = next(iter(target.parameters.values())).is_cuda
    slow = mode == "eager" or (mode == "traced" and settings.execution == "auto" and not cuda)
    apart = settings.optimizer == "lbfgs" or settings.patience or settings.tolerance or settings.group_weight
    apart = apart or settings.schedule == "plateau"
    apart = apart or any(o.channel is not None or o.open_labels or o.errors is not None for o in observations)
    return not (slow or apart or monitor.seconds_left() is not None)


def solve(
    problem: GradientMatching,
    guesses: Sequence[Mapping[str, Tensor]],
    generator: Generator,
    progress: Progress,
    cases: Sequence[Case] = (),
) -> tuple[list[Solution], tuple[str, ...]]:
    """Descend from every guess; the solutions in the same order, and facts for the report.

    Restarts go down together in one step where that is faster, as many as memory is free for; out of memory halves the
    group and goes on. With `cases`, each guess is of a victim of its own.
    """
    settings = problem.settings
    wanted, steps_planned = settings.execution, settings.iterations * len(guesses)
    large = COMPILE_LARGE_AFTER <= steps_planned < COMPILE_AFTER and not is_small(problem.target)
    alone = len(guesses) == 1 and not next(iter(problem.parameters.values())).is_cuda
    auto = choose_mode(steps_planned, progress.monitor.seconds_left(), large=large, alone=alone)
    chosen: Mode = auto if wanted == "auto" else wanted
    together = settings.group_weight > 0 or (chosen != "eager" and settings.optimizer != "lbfgs")
    size = len(guesses) if together and settings.optimizer != "lbfgs" else 1
    solutions: list[Solution] = []
    facts: list[str] = []
    if size > 1 and (room := restarts_that_fit(problem, guesses[0])) < size:
        size = -(-size // -(-size // room))  # groups of about one size: each size is a recording of its own
        facts.append(f"memory for {room} of {len(guesses)} restarts at once: {size} at once")
    steps: dict[tuple[int, int], Step] = {}
    while len(solutions) < len(guesses) and not (solutions and solutions[-1].cut):
        begin = len(solutions)
        group, own = guesses[begin : begin + size], cases[begin : begin + size]
        part = Progress(
            progress.monitor,
            progress.begin + (progress.end - progress.begin) * len(solutions) / len(guesses),
            progress.begin + (progress.end - progress.begin) * (len(solutions) + len(group)) / len(guesses),
        )
        try:
            names = tuple(group[0])
            stacked = [torch.stack([guess[name] for guess in group]) for name in names]
            place = (len(group), begin if own else 0)  # the victims are part of a recording
            if place not in steps:
                steps[place] = Step(problem, names, stacked, chosen, own)
            solutions += _descend(steps[place], stacked, settings, generator, part)
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
            size = len(group) // 2
            steps.clear()
            torch.cuda.empty_cache()
            facts.append(f"out of memory with {len(group)} restarts at once: {size} at once from there on")
    facts += dict.fromkeys(step.note for step in steps.values() if step.note)
    facts += [f"steps compiled, restarts at once: {n}" for (n, _), step in steps.items() if step.mode == "compiled"]
    return solutions, tuple(facts)


def _descend(
    step: Step, stacked: Sequence[Tensor], settings: MatchSettings, generator: Generator, progress: Progress
) -> list[Solution]:
    if settings.optimizer == "lbfgs":
        return lbfgs(step, stacked, settings, progress)
    return adam(step, stacked, settings, generator, progress)


def to_reconstruction(
    problem: GradientMatching,
    solutions: Sequence[Solution],
    notes: tuple[str, ...] = (),
    cuts: tuple[Cut, ...] = (),
) -> Reconstruction:
    """The solution with the smallest match, with the iterations of all."""
    best = best_of(solutions)
    match = problem.cosine(problem.projected(best.values))
    if not math.isfinite(best.objective):
        notes = (*notes, "the objective was not a finite number anywhere: what is shown is the start")
    labels = problem.labels
    if "labels" in best.values:
        labels = problem.target.task.decided(best.values["labels"], labels)
    found = {name.removeprefix(MASK): value for name, value in best.values.items() if name.startswith(MASK)}
    return Reconstruction(
        inputs=best.values["inputs"],
        labels=labels,
        match=match,
        masks=by_step({**problem.masks, **found}) or None,
        history=best.history,
        snapshots=_timeline(best),
        iterations=best.spent,
        cuts=(*cuts, *filter(None, [solutions[-1].cut])),
        notes=notes,
        errors=None if "labels" in best.values else problem.observation.errors,
    )


def _timeline(solution: Solution) -> tuple[Snapshot, ...]:
    """The last shot at or before each of the fixed fractions of the way, each once."""
    total = max(1, solution.iterations)
    shots = sorted(solution.shots, key=lambda shot: shot[0])
    due = [max((i for i, (at, _) in enumerate(shots) if at <= f * total), default=0) for f in SNAPSHOT_FRACTIONS]
    return tuple(Snapshot(shots[i][0] / total, shots[i][1]) for i in dict.fromkeys(due) if i < len(shots))


def measure_step(problem: GradientMatching, guess: Mapping[str, Tensor]) -> float:
    """Seconds of one eager iteration: after one that warms up, unless that one is long whatever is loaded in it."""
    step = Step(problem, tuple(guess), [value[None] for value in guess.values()])
    zeros = [torch.zeros_like(value)[None] for value in guess.values()]

    def timed() -> float:
        started = time.perf_counter()
        step(zeros)[0].sum().item()
        return time.perf_counter() - started

    first = timed()
    taken = [first] if first >= LONG_WARM_UP else [timed()]
    while len(taken) < PLANNING_STEPS and sum(taken) < LONG_STEP:
        taken.append(timed())
    return problem.settings.evaluations * sum(taken) / len(taken)


def measure_part(problem: GradientMatching, guess: Mapping[str, Tensor]) -> float:
    """Seconds of the update that a guess would cause, no graph kept: every eager iteration takes longer.

    It runs again after a first time that warms up, unless that is long whatever is loaded in it; the shorter counts.
    """

    def timed() -> float:
        started = time.perf_counter()
        update = problem.observation.regenerate(problem.target, problem.play(guess))
        next(iter(update.values())).sum().item()
        return time.perf_counter() - started

    first = timed()
    return first if first >= LONG_WARM_UP else min(first, timed())


def plan(problem: GradientMatching, guess: Mapping[str, Tensor], seconds: float | None) -> int:
    """Iterations per restart that fit into the time left, by measured steps, so that the schedule still ends."""
    settings = problem.settings
    if seconds is None:
        return settings.iterations
    started = time.perf_counter()
    step = measure_step(problem, guess)
    affordable = int(PLANNED_SHARE * (seconds - (time.perf_counter() - started)) / step / settings.restarts)
    return max(1, min(settings.iterations, affordable))
