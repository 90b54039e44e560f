"""What takes turns in a measurement of step times: the engine in one of its modes, or `breaching`; on any device.

An iteration is all of it: objective, gradient, signed Adam, projection, record of the best. The contenders take turns,
a few iterations each, round after round, and ratios are medians of the ratios within a round, which a busy machine
disturbs least.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from peer import Peer
from torch import Tensor

from leakaudit.attacks.base import cpu_generator
from leakaudit.audit.environment import thread_count
from leakaudit.matching.descent import Progress, adam
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.step import Mode, Step
from leakaudit.observation import Observation
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target

Clock = Callable[[], float]
TURN = 0.4
"""Seconds of an eager turn, if two iterations take no longer."""
SETTINGS = MatchSettings(tv_weight=1e-5)


def clock_of(device: torch.device, threads: int = 0) -> Clock:
    """Seconds of the wall, on a GPU when all that was launched is done; of a process of one thread, processor time."""
    if device.type != "cuda":
        return time.process_time if threads == 1 else time.perf_counter

    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished


@dataclass(eq=False)
class Contender:
    """Runs a number of iterations; milliseconds per iteration and restart of every turn."""

    run: Callable[[int], object]
    restarts: int
    clock: Clock
    threads: int
    setup: float = 0.0
    mode: str = ""
    note: str = ""
    iterations: int = 2
    turns: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Milliseconds per iteration and restart over the turns."""
        return statistics.median(self.turns)

    def turn(self, iterations: int) -> None:
        """One turn."""
        torch.set_num_threads(self.threads)
        started = self.clock()
        self.run(iterations)
        self.turns.append(1000 * (self.clock() - started) / iterations / self.restarts)

    def warm_up(self, seconds: float = TURN, least: int = 2) -> None:
        """A first turn that does not count, by which the iterations of the others are chosen."""
        self.turn(2)
        first = self.turns.pop() / 1000 * self.restarts
        self.iterations = max(least, min(100, int(seconds / first)))


def ours(
    net: Target, observation: Observation, start: Tensor, mode: Mode, threads: int, clock: Clock
) -> Contender:  # fmt: skip
    """The engine in a mode, its step recorded; `start` (R, B, *shape) on the model's device."""
    threads = threads if mode == "eager" else thread_count(net, threads)
    torch.set_num_threads(threads)
    labels = observation.labels
    assert labels is not None
    problem = GradientMatching(net, observation, labels, SETTINGS)
    started = clock()
    step = Step(problem, ["inputs"], [start], mode)
    setup = clock() - started
    if step.note:
        print(step.note, file=sys.stderr)

    def run(iterations: int) -> object:
        settings = replace(SETTINGS, iterations=iterations)
        return adam(step, [start], settings, cpu_generator(0), Progress(SilentMonitor()))

    return Contender(run, len(start), clock, threads, setup, step.mode, step.note)


def breaching(net: Target, observation: Observation, start: Tensor, threads: int, clock: Clock) -> Contender:
    """The peer, one restart."""
    peer = Peer(net, observation, tv_weight=SETTINGS.tv_weight)

    def run(iterations: int) -> object:
        peer._attacker.cfg.optim.max_iterations = iterations
        return peer.loop(start[0])

    return Contender(run, 1, clock, threads)


def take_turns(
    contenders: Mapping[str, Contender], rounds: int, seconds_left: Callable[[], float] | None = None
) -> None:
    """Round after round; none is begun that would take longer than there is time left, by the one before."""
    lasted = 0.0
    for _ in range(rounds):
        if seconds_left is not None and seconds_left() <= lasted:
            return
        started = time.perf_counter()
        for contender in contenders.values():
            contender.turn(contender.iterations)
        lasted = time.perf_counter() - started


def times_as_fast(slow: Contender, fast: Contender) -> float:
    """Median of the ratios within a round, over the rounds that both have finished."""
    return statistics.median(a / b for a, b in zip(slow.turns, fast.turns, strict=False))
