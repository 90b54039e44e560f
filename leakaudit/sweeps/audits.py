"""Audits that belong together, as cells of a sweep: variants of one model, settings of defences.

By default they run one after the other in this process, on a model and samples that may be in memory, and nothing
outlives it. With a store or workers they are cells like those of ``leakaudit sweep``: found again by a hash of all that
they depend on, run by any runner, and not done twice. Either way the same engine drives them, and a report that comes
back has gone through its document, so that it is the same wherever it was made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from leakaudit.audit.cache import Cache
from leakaudit.audit.intake import read_case, read_model
from leakaudit.audit.memory import Memory
from leakaudit.audit.pipeline import audit
from leakaudit.audit.request import Request
from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError, UsageError
from leakaudit.observer import Observer
from leakaudit.report.saving import Report
from leakaudit.report.wording import seconds
from leakaudit.sweeps.cells import Audit, Presentation, Task, error_of
from leakaudit.sweeps.contents import Contents
from leakaudit.sweeps.engine import Job, Progress, SilentWatcher, drive
from leakaudit.sweeps.grid import Cell
from leakaudit.sweeps.outcome import report_in
from leakaudit.sweeps.places import Held, place_of
from leakaudit.sweeps.results import Result
from leakaudit.sweeps.run import Running, make_runner
from leakaudit.sweeps.store import Store

UNJUDGED = Presentation(formats=("json",), paths="full", policy=None)
"""Whole reports as audits make them: who asked for several judges, redacts and shortens what it makes of them."""
Outcome = Report | Exception | None
"""The report of an audit, partial or not, what it was ended by, or ``None`` where it was not begun."""
Ended = Callable[[int, Outcome], None]
"""Told the place of a request and what came of it; what it raises ends all."""


def audit_files(request: Request, observer: Observer) -> Report:
    """Audit what a request names; the report is judged by nobody.

    Raises:
        LeakauditError: As `leakaudit.scan` does.
    """
    started = time.monotonic()
    case = read_case(request, read_model(request), None, observer)
    memory = Memory(Cache() if request.cache else None)
    return audit(case.target, case.samples, request, observer=observer, memory=memory, started=started)


class Audits:
    """Runs audits that belong together; a context, at whose end workers end and claims are given back.

    Args:
        here: Does an audit in this process.
        observer: Told the progress, and asked whether to stop.
        running: Where they run; by default in this process.
        store: Folder or URL where results are kept; by default they are not.

    Raises:
        UsageError: A runner or store that cannot be used.
    """

    def __init__(
        self, here: Audit, observer: Observer, running: Running | None = None, store: str | Path | None = None
    ) -> None:
        self._here, self._observer = here, observer
        running = running or Running()
        self._apart = running.runner != "here"
        self._contents = Contents(Path()) if self._apart or store is not None else None
        self._titles: dict[Request, str] = {}
        self._partial: dict[Request, Report] = {}
        self._errors: dict[Request, Exception] = {}
        self._store = Store(Held() if store is None else place_of(store))
        try:
            self._runner = make_runner(running, audit_files if self._apart else self._in_this_process, observer)
        except BaseException:
            self._store.close()
            raise

    def __enter__(self) -> Audits:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._store.close()

    def run(self, requests: Sequence[Request], titles: Sequence[str], ended: Ended) -> None:
        """Audit what the store does not have; failures that it has are tried again.

        Args:
            requests: What to audit.
            titles: How each is called, for the progress.
            ended: Told of each as it ends, and at last of those that were done before or not begun.

        Raises:
            UsageError: A request that does not name files, where others than this process are to read them.
        """
        self._titles |= dict(zip(requests, titles, strict=True))
        jobs = [
            Job(Cell(n, one, {"": title}), Task(key=self._key(one), request=one, shown=UNJUDGED))
            for n, (one, title) in enumerate(zip(requests, titles, strict=True))
        ]
        self._store.forget(self._store.finished() & {job.task.key for job in jobs})
        watcher = _Watcher(self, ended)
        results = drive(jobs, self._store, self._runner, watcher)
        for job, result in zip(jobs, results, strict=True):
            if job.cell.number not in watcher.told:
                ended(job.cell.number, self.outcome(job.cell.request, result))

    def outcome(self, request: Request, result: Result) -> Outcome:
        """What a result says of a request."""
        if request in self._partial or request in self._errors:
            return self._partial.get(request) or self._errors[request]
        if result.status is CellStatus.NOT_RUN:
            return None
        if result.status is not CellStatus.DONE:
            return error_of(result)
        found = self._store.get(result.key)
        return AuditError("its result has gone from the store", "begin again") if found is None else report_in(found)

    def interrupted(self) -> bool:
        """Whether to stop."""
        return self._observer.interrupted()

    def tell(self, request: Request, result: Result) -> None:
        """Say of an audit elsewhere that it ended; one in this process was followed step by step."""
        if self._apart:
            self._observer.stage(f"{self._titles[request]}: {result.status}, {seconds(result.seconds)}")

    def _key(self, request: Request) -> str:
        """The name of a result: by contents where it outlives this process or leaves it, otherwise by the request."""
        if self._contents is None:
            return request.key()
        in_memory = request.update is not None and not isinstance(request.update, Path)
        if not request.files or (request.batch is None and not request.recorded) or in_memory:
            raise UsageError("a store and workers need the model and the samples as files", "pass their paths")
        return UNJUDGED.key_of(request, self._contents)

    def _in_this_process(self, request: Request, observer: Observer) -> Report:
        """An audit here, of which also remains what a result cannot hold: a partial report, or the error itself."""
        observer.stage(self._titles[request])
        for before in (self._errors, self._partial):
            before.pop(request, None)
        try:
            report = self._here(request, observer=observer)
        except Exception as error:
            self._errors[request] = error
            raise
        if report.partial:
            self._partial[request] = report
        return report


class _Watcher(SilentWatcher):
    """Passes on what ends."""

    def __init__(self, audits: Audits, ended: Ended) -> None:
        self._audits, self._ended = audits, ended
        self.told: set[int] = set()

    def ended(self, cell: Cell, result: Result, progress: Progress) -> None:
        """See :class:`leakaudit.sweeps.engine.Watcher`."""
        self.told.add(cell.number)
        self._audits.tell(cell.request, result)
        self._ended(cell.number, self._audits.outcome(cell.request, result))

    def interrupted(self) -> bool:
        """See :class:`leakaudit.sweeps.engine.Watcher`."""
        return self._audits.interrupted()
