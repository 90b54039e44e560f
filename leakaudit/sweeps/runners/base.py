"""What a runner does: take tasks, as many as it has slots, and hand back what became of them.

A runner decides where a cell runs and what ends it; the order of cells, the store and the claims are the driver's
(`leakaudit.sweeps.engine`). Whatever happens to a worker, every task that was taken comes back once as a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from leakaudit.document.status import CellStatus
from leakaudit.errors import UsageError
from leakaudit.observer import Observer
from leakaudit.sweeps.cells import Audit, Task, run_cell
from leakaudit.sweeps.results import Result

RETRIES = 2
"""Times that a cell is begun again after its worker died; chosen: a machine that fails once is no cell that kills."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one cell may take.

    Args:
        seconds: Of its audit; ``None`` for no limit.
        memory: GiB of its process; ``None`` for no limit.
        retries: Times that it is begun again after its worker died.

    Defaults: chosen, see :data:`RETRIES`.
    """

    seconds: float | None = None
    memory: float | None = None
    retries: int = RETRIES


class Runner(Protocol):
    """Runs cells."""

    slots: int
    threads: int

    def submit(self, task: Task) -> None:
        """Take a task; only while fewer than `slots` are under way."""

    def finished(self, seconds: float) -> list[Result]:
        """What ended, waiting for it at most this long."""

    def close(self) -> None:
        """End all workers at once; what is under way is lost."""


class Here:
    """Runs one cell after the other in this process, where nothing can end one from outside.

    Args:
        audit: Does a cell.
        observer: Told the progress within a cell, and asked whether to stop.
        limits: Only retries, which cannot be needed.
        threads: Of torch; ``None`` for as many as it takes by default.

    Raises:
        UsageError: A limit on time or memory.
    """

    slots = 1

    def __init__(self, audit: Audit, observer: Observer, limits: Limits, threads: int | None = None) -> None:
        import torch

        if limits.seconds is not None or limits.memory is not None:
            name = "--cell-time" if limits.seconds is not None else "--cell-memory"
            raise UsageError(f"{name} needs workers that can be ended", "pass --runner processes")
        self._audit, self._observer = audit, observer
        self._before = torch.get_num_threads()
        self.threads = threads or self._before
        torch.set_num_threads(self.threads)
        self._waiting: list[Task] = []

    def submit(self, task: Task) -> None:
        """See :class:`Runner`."""
        self._waiting.append(task)

    def finished(self, seconds: float) -> list[Result]:
        """See :class:`Runner`; waits for the cell, however long it takes."""
        return [run_cell(self._waiting.pop(), self._audit, self._observer)] if self._waiting else []

    def close(self) -> None:
        """See :class:`Runner`."""
        import torch

        torch.set_num_threads(self._before)


def lost(key: str, how: str) -> Result:
    """The result of a cell whose workers died."""
    return Result(key=key, status=CellStatus.LOST, reason=how)
