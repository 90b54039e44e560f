"""The time that attacks and controls may take together, shared out run by run to what pays most; and Ctrl-C.

A run gets the part of what is left that its worth has in the worth of all runs still to come; what it does not use
goes to those. Where that is less than its plan takes, something is to be finished (:func:`allotted`): further victims
wait until one is attacked to the end, and the positive control keeps what a run costs. A run that cannot do its
fewest steps takes the time of later attacks, then that of the controls, and is else not begun. A yardstick that no
attacker could run tells less than an attack, and one more attack on a victim that is provably recovered tells hardly
anything new. No private sample decides: a certificate needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from leakaudit.attacks.base import Attack
from leakaudit.audit.pace import Need
from leakaudit.document.status import Cause
from leakaudit.findings.effort import LEAST_SHARE
from leakaudit.observer import Observer, SilentObserver
from leakaudit.reconstruction import Forgetting, Memory, Monitor

YARDSTICK = 0.5
"""Worth of an attack that no attacker could run, relative to one that he could; chosen."""
RECOVERED = 0.25
"""Worth of a run on a victim that is recovered for certain, relative to one that is not; chosen."""
IN_PASSING = 0.25
"""Worth of an attack that is only tried in passing; chosen."""
CERTIFICATE = 0.1
"""Time that the certificate of a run's result may take beyond the run's share, relative to that; chosen: what it takes
is missing to later runs, and after the last one the budget is exceeded by no more."""
SETUP = 0.9
"""Of a time budget, at most, that goes to what stands before the attacks: rank analysis, updates, labels; chosen, so
that closed forms are tried however long those take."""
REPORTING = 0.05
"""Of a time budget, at most, that is kept for findings and report; chosen."""
REPORT_SECONDS = 6.0
"""Seconds that are kept for these at most; chosen: so long take HTML and PDF."""
SLACK = 1.25
"""Times its plan's seconds that a run gets at most; chosen: a machine is not equally fast all the time."""
ATTACKS_SHARE = 0.75
"""Of a time budget, at most; the controls get the rest, and what attacks leave over; chosen."""


def attacks_share(victims: int) -> float:
    """What attacks get of a time budget, so that a positive control has the time of one victim."""
    return min(ATTACKS_SHARE, victims / (victims + 1))


@dataclass(frozen=True)
class Line:
    """Who waits for the time of a budget.

    Args:
        own: Worth of the run that is next.
        rest: Worth of the same attack's runs on further victims.
        after: Worth of later attacks on all their victims.
        once: Worth of later attacks on one victim each.
        control: Seconds that the positive control needs, 0 without one; ``None`` where it will need as much as the run.
        first: Whether the run is the attack's first.
        light: Whether it is only tried in passing, and takes no time from others.
    """

    own: float
    rest: float = 0.0
    after: float = 0.0
    once: float = 0.0
    control: float | None = 0.0
    first: bool = True
    light: bool = False


def allotted(need: Need | None, line: Line, left: float, whole: float) -> float | None:
    """Seconds of a run, or ``None`` where it is not to begin.

    Args:
        need: What it takes, where that is known.
        line: Who else waits.
        left: Seconds of the attacks' part of the budget.
        whole: Seconds of all of it.
    """
    fair = left * line.own / (line.own + line.rest + line.after)
    if need is None or fair >= need.whole:
        return fair
    own, once = line.own, line.once
    kept = own if line.control is None else 0.0
    spare = whole - (line.control or 0.0)
    parts = [spare * own / (own + once + kept)]
    if line.first and not line.light:
        parts += [spare * own / (own + kept), whole]
    wanted = need.least if line.first else max(need.least, LEAST_SHARE * need.whole)
    return next((min(part, SLACK * need.whole) for part in parts if part >= wanted), None)


def worth(attack: Attack, *, recovered: bool) -> float:
    """What a run tells, relative to an attack on a victim that nothing has recovered yet.

    Args:
        attack: What would run.
        recovered: Whether the victim has a certified reconstruction.
    """
    light = IN_PASSING if attack.in_passing else 1.0
    return light * (YARDSTICK if attack.upper_bound else 1.0) * (RECOVERED if recovered else 1.0)


@dataclass(eq=False)
class Work:
    """The steps of an audit, for the estimate of how long it takes.

    Args:
        observer: Told before every run.
        total: Steps of all runs.
        done: Steps of the runs that ended.
    """

    observer: Observer
    total: int = 0
    done: int = 0

    def begin(self, attack: Attack, runs: int = 1) -> None:
        """Tell what is about to run, and count it; who does not run it after all sets `done` back."""
        steps = steps_of(attack) * runs
        self.observer.plan(self.done, steps, max(self.total, self.done + steps))
        self.done += steps


def steps_of(attack: Attack) -> int:
    """Iterations of one run; algebra counts as one."""
    return attack.planned or 1


@dataclass(eq=False)
class Budget:
    """A deadline that runs share.

    Args:
        observer: Asked whether the user interrupted, and told the progress.
        deadline: Moment on the monotonic clock, or ``None`` for no limit.
        end: Deadline of the whole budget, of which this may be a first part.
        work: How far the audit is; shared by all parts of a budget.
    """

    observer: Observer
    deadline: float | None = None
    end: float | None = None
    work: Work = field(default_factory=lambda: Work(SilentObserver()))

    def __post_init__(self) -> None:
        """Tell the same observer of the work."""
        self.work.observer = self.observer

    @classmethod
    def of(cls, observer: Observer, seconds: float | None, share: float = 1.0, spent: float = 0.0) -> Budget:
        """A budget that starts now, whose first part is this share of its seconds.

        Args:
            observer: Of the audit.
            seconds: For all of the audit.
            share: What the first part gets.
            spent: Seconds that are gone already; of them no more than :data:`SETUP` of the budget counts.
        """
        if seconds is None:
            return cls(observer)
        kept = min(REPORTING * seconds, REPORT_SECONDS)
        now, left = time.monotonic(), max(seconds - kept - spent, (1 - SETUP) * seconds)
        return cls(observer, now + share * left, now + left)

    def whole(self) -> Budget:
        """The rest of the seconds."""
        return Budget(self.observer, self.end, self.end, self.work)

    def spent(self) -> Cause | None:
        """Why no further run may start, or ``None``."""
        if self.observer.interrupted():
            return Cause.INTERRUPT
        return Cause.BUDGET if self.deadline is not None and time.monotonic() >= self.deadline else None

    @property
    def left(self) -> float | None:
        """Seconds of this part, or ``None`` for no limit."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    @property
    def reserve(self) -> bool:
        """Whether there is a part after this one, for controls."""
        return self.end is not None and self.deadline is not None and self.end > self.deadline

    def share(self, runs: float) -> Monitor:
        """The monitor of the next run, which gets its part of what is left for as much as this many such runs."""
        return self.lasting(None if self.left is None else self.left / max(1, runs))

    def lasting(self, seconds: float | None) -> Monitor:
        """The monitor of a run that gets so many seconds, or has no limit."""
        if seconds is None:
            return _RunMonitor(self.observer, None, None)
        now = time.monotonic()
        return _RunMonitor(self.observer, now + seconds, now + (1 + CERTIFICATE) * seconds)

    def next(self, need: Callable[[], Need | None], line: Line) -> Monitor | None:
        """The monitor of the next run, or ``None`` where there is not the time to begin it.

        Args:
            need: Asked what it takes, where time is limited.
            line: Who else waits.
        """
        if self.deadline is None or self.end is None:
            return self.lasting(None)
        wanted, now = need(), time.monotonic()
        part = allotted(wanted, line, max(0.0, self.deadline - now), max(0.0, self.end - now))
        return None if part is None else self.lasting(part)


@dataclass(eq=False)
class _RunMonitor:
    """Hands an attack's progress on, and stops it and its certificate on interruption or at their time."""

    observer: Observer
    deadline: float | None
    last: float | None
    memory: Memory = field(default_factory=Forgetting)

    def update(self, fraction: float, objective: float) -> None:
        self.observer.progress(fraction, objective)

    def seconds_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()

    def should_stop(self) -> bool:
        left = self.seconds_left()
        return self.observer.interrupted() or (left is not None and left <= 0)

    def over(self) -> bool:
        return self.observer.interrupted() or (self.last is not None and time.monotonic() >= self.last)
