"""Cells in processes of this machine, one for each core, which share its threads and its graphics cards.

A worker serves many cells, since starting one takes seconds. One that dies takes only its own cell with it, which is
begun again a few times; one that is over its time or its memory is ended from outside. Workers are started by spawning,
so a script that uses them guards its main part by ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError
from leakaudit.sweeps.cells import Audit, Task
from leakaudit.sweeps.results import Result, unpack
from leakaudit.sweeps.runners.base import Limits, lost
from leakaudit.sweeps.runners.worker import READY, serve

LOOK = 0.25
"""Seconds between two looks at time and memory of the cells under way, where they are limited; chosen."""
GIB = 1 << 30
"""Bytes, by definition."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(eq=False)
class _Worker:
    """A process, the way to it, and what it does."""

    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    since: float = 0.0


class Processes:
    """A runner of local processes.

    Args:
        audit: Does a cell; importable by its name.
        workers: Processes; default one for each core that this process may use.
        threads: Of each; default the cores divided by the workers.
        limits: What a cell may take.
    """

    def __init__(
        self, audit: Audit, workers: int | None = None, threads: int | None = None, limits: Limits | None = None
    ) -> None:
        cores = usable_cores()
        self.slots = workers or cores
        self.threads = threads or max(1, cores // self.slots)
        self._audit, self._limits = audit, limits or Limits()
        self._cards = _cards()
        self._workers: list[_Worker | None] = [None] * self.slots
        self._deaths: dict[str, int] = {}

    def submit(self, task: Task) -> None:
        """See :class:`leakaudit.sweeps.runners.base.Runner`."""
        place = next(n for n, worker in enumerate(self._workers) if worker is None or worker.task is None)
        worker = self._workers[place]
        if worker is None or not worker.process.is_alive():
            worker = self._workers[place] = self._start(place)
        worker.task, worker.since = task, time.monotonic()
        with suppress(OSError):  # it has just died: the next look finds that
            worker.connection.send(task)

    def finished(self, seconds: float) -> list[Result]:
        """See :class:`leakaudit.sweeps.runners.base.Runner`."""
        busy = {worker.connection: worker for worker in self._workers if worker is not None and worker.task is not None}
        limited = self._limits.seconds is not None or self._limits.memory is not None
        ready = wait(list(busy), min(seconds, LOOK) if limited else seconds)
        results = [result for way in ready if (result := self._received(busy[way])) is not None]  # type: ignore[index]
        return [*results, *self._over()]

    def close(self) -> None:
        """See :class:`leakaudit.sweeps.runners.base.Runner`."""
        for worker in filter(None, self._workers):
            _end(worker)
        self._workers = [None] * self.slots

    def _start(self, place: int) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        environment = {name: str(self.threads) for name in _THREADS}
        if self._cards:
            environment["CUDA_VISIBLE_DEVICES"] = self._cards[place % len(self._cards)]
        process = context.Process(target=serve, args=(theirs, environment, os.getpid()))
        process.start()
        theirs.close()
        with suppress(OSError):
            ours.send(self._audit)
        return _Worker(process, ours)

    def _received(self, worker: _Worker) -> Result | None:
        """What a worker sent, or what its death means; ``None`` where its cell is begun again."""
        task = worker.task
        assert task is not None
        try:
            content = worker.connection.recv_bytes()
            if content == READY:
                worker.since = time.monotonic()
                return None
            result = unpack(content)
        except (EOFError, OSError, AuditError):
            return self._died(worker, task)
        worker.task = None
        return result

    def _died(self, worker: _Worker, task: Task) -> Result | None:
        self._remove(worker)
        deaths = self._deaths[task.key] = self._deaths.get(task.key, 0) + 1
        if deaths <= self._limits.retries:
            self.submit(task)
            return None
        return lost(task.key, f"its worker {_how(worker.process.exitcode)}, {deaths} times")

    def _over(self) -> Iterator[Result]:
        """Cells that are over a limit, whose workers are ended."""
        for worker in self._workers:
            if worker is None or worker.task is None:
                continue
            used = time.monotonic() - worker.since
            if self._limits.seconds is not None and used > self._limits.seconds:
                reason, status = f"ended after {self._limits.seconds:g} s, its --cell-time", CellStatus.TIME
            elif self._limits.memory is not None and _memory(worker) > self._limits.memory * GIB:
                reason, status = f"ended at {self._limits.memory:g} GiB, its --cell-memory", CellStatus.MEMORY
            else:
                continue
            key = worker.task.key
            self._remove(worker)
            yield Result(key=key, status=status, reason=reason, seconds=used)

    def _remove(self, worker: _Worker) -> None:
        _end(worker)
        self._workers[self._workers.index(worker)] = None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cards() -> list[str]:
    """Graphics cards to be shared out, as CUDA names them; none where there are less than two."""
    import torch

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(number) for number in range(torch.cuda.device_count())]
    return names if len(names) > 1 else []


def _memory(worker: _Worker) -> int:
    """Bytes that a worker holds."""
    import psutil

    try:
        held: int = psutil.Process(worker.process.pid).memory_info().rss
    except psutil.Error:  # it has just ended
        return 0
    return held


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    often = ", as the system does where memory is short" if name == "SIGKILL" else ""
    return f"was killed by {name}{often}"


def _end(worker: _Worker) -> None:
    """Kill a worker with all that it started."""
    if worker.process.pid is not None:
        with suppress(OSError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.kill()
    worker.process.join()
    worker.connection.close()
