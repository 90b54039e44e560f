"""The driver of a sweep: hand cells to a runner, keep what comes back, and leave to others what they are at.

::

    plan ─▶ for each cell: result in the store? ─▶ done
                           claimed by somebody alive? ─▶ look again later
                           otherwise claim ─▶ runner ─▶ result ─▶ store ─▶ release

The store is all that is remembered, so a driver that is killed loses the cells under way and nothing else, and several
drivers share one sweep without knowing of one another. Nothing here decides where a cell runs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from leakaudit.document.status import CellStatus
from leakaudit.sweeps.cells import INTERRUPTED, Presentation, Task
from leakaudit.sweeps.contents import Contents
from leakaudit.sweeps.grid import Cell, Plan
from leakaudit.sweeps.results import Result
from leakaudit.sweeps.runners.base import Runner
from leakaudit.sweeps.store import Store

TICK = 1.0
"""Seconds between two looks at whether to stop, and at the cells of other drivers; chosen."""


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Args:
        total: Cells.
        done: Of these, with a report, those of earlier sweeps included.
        failed: Of these, without one.
        left: Seconds until the last is expected to end, at the pace so far; ``None`` before there is one.
    """

    total: int
    done: int
    failed: int
    left: float | None


class Watcher(Protocol):
    """Follows a sweep."""

    def begins(self, progress: Progress, workers: int) -> None:
        """The first cell is about to be handed out."""

    def ended(self, cell: Cell, result: Result, progress: Progress) -> None:
        """A cell came to its end here, or at another driver."""

    def interrupted(self) -> bool:
        """Whether to stop."""


class SilentWatcher:
    """Says nothing and never interrupts."""

    def begins(self, progress: Progress, workers: int) -> None:
        """Ignore."""

    def ended(self, cell: Cell, result: Result, progress: Progress) -> None:
        """Ignore."""

    def interrupted(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class Job:
    """A cell with what a runner is given of it."""

    cell: Cell
    task: Task


def jobs_of(plan: Plan, shown: Presentation) -> list[Job]:
    """The jobs of a plan; every file that it names is read once, for its hash."""
    contents = Contents(plan.base)
    return [
        Job(cell, Task(key=shown.key_of(cell.request, contents), request=cell.request, shown=shown))
        for cell in plan.cells
    ]


def drive(jobs: Sequence[Job], store: Store, runner: Runner, watcher: Watcher | None = None) -> list[Result]:
    """Run what has no result yet.

    Args:
        jobs: All cells.
        store: What was done before, and who does what.
        runner: Runs cells; not closed here.
        watcher: Told the progress.

    Returns:
        The results without their files, in the order of the jobs.

    Raises:
        UsageError: The store refuses.
    """
    return _Drive(jobs, store, runner, watcher or SilentWatcher()).results()


@dataclass(eq=False)
class _Drive:
    """One driver at work."""

    jobs: Sequence[Job]
    store: Store
    runner: Runner
    watcher: Watcher
    known: dict[str, Result] = field(default_factory=dict)
    running: dict[str, Job] = field(default_factory=dict)
    done: int = 0
    ended: int = 0
    started: float = field(default_factory=time.monotonic)

    def results(self) -> list[Result]:
        """See :func:`drive`."""
        waiting = self._open()
        self.watcher.begins(self._progress(), self.runner.slots)
        while (waiting or self.running) and not self.watcher.interrupted():
            self._hand_out(waiting)
            ended = self.runner.finished(TICK) if self.running else []
            for result in ended:
                self._keep(result)
            if not ended and not self.running and waiting:  # all that is left is at other drivers
                time.sleep(TICK)
        for key in list(self.running):
            self.store.release(key)
        return [self._result(job) for job in self.jobs]

    def _open(self) -> deque[Job]:
        """The jobs without a result."""
        finished = self.store.finished()
        waiting: deque[Job] = deque()
        for job in self.jobs:
            found = self.store.sound(job.task.key) if job.task.key in finished else None
            if found is None:
                waiting.append(job)
            else:
                self._know(found)
        return waiting

    def _hand_out(self, waiting: deque[Job]) -> None:
        """Fill the runner's slots with cells that nobody else is at; the others go to the end."""
        for _ in range(len(waiting)):
            if len(self.running) >= self.runner.slots:
                return
            job = waiting.popleft()
            if self.store.claim(job.task.key):
                self.running[job.task.key] = job
                self.runner.submit(job.task)
            elif (found := self.store.sound(job.task.key)) is not None:
                self._told(job, found)
            else:
                waiting.append(job)

    def _keep(self, result: Result) -> None:
        job = self.running.pop(result.key)
        if result.status.kept:
            self.store.put(result)
        self.store.release(result.key)
        if result.status is not CellStatus.NOT_RUN:
            self.ended += 1
            self._told(job, replace(result, files={}))

    def _told(self, job: Job, result: Result) -> None:
        self._know(result)
        self.watcher.ended(job.cell, result, self._progress())

    def _know(self, result: Result) -> None:
        """Remember and count a result: a sum over all at every cell would take the square of their number."""
        self.done += result.status is CellStatus.DONE and result.key not in self.known
        self.known[result.key] = result

    def _progress(self) -> Progress:
        rest = len(self.jobs) - len(self.known)
        pace = (time.monotonic() - self.started) / self.ended if self.ended else None
        return Progress(len(self.jobs), self.done, len(self.known) - self.done, None if pace is None else pace * rest)

    def _result(self, job: Job) -> Result:
        missing = Result(key=job.task.key, status=CellStatus.NOT_RUN, reason=INTERRUPTED)
        return self.known.get(job.task.key, missing)
