"""A sweep from its plan to its report: the runner that was asked for, the store, and the driver between them."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from leakaudit.audit.environment import timestamp
from leakaudit.document.schema import Tool
from leakaudit.document.status import CellStatus
from leakaudit.document.sweep import SweepDocument
from leakaudit.document.version import __version__
from leakaudit.errors import UsageError
from leakaudit.observer import Observer, SilentObserver
from leakaudit.sweeps.cells import Audit, Presentation
from leakaudit.sweeps.engine import Job, SilentWatcher, Watcher, drive, jobs_of
from leakaudit.sweeps.grid import Plan
from leakaudit.sweeps.outcome import SweepReport, entries, rejudged
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.results import Result
from leakaudit.sweeps.runners.base import Here, Limits, Runner
from leakaudit.sweeps.store import Store

Where = Literal["here", "processes", "ray"]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where and how cells run.

    Args:
        runner: In this process, in local processes, or as tasks of Ray.
        workers: Cells at a time.
        threads: Of each.
        address: Of a Ray cluster; by default one is started on this machine.
        cards: Graphics cards of each cell on Ray, or a part of one.
        limits: What a cell may take.
        again: Whether cells that failed in the store are tried again. Audits of one command (`scan`, `defend`) always
            try theirs again.
    """

    runner: Where = "here"
    workers: int | None = None
    threads: int | None = None
    address: str | None = None
    cards: float | None = None
    limits: Limits = field(default_factory=Limits)
    again: bool = False


def run_sweep(
    plan: Plan,
    audit: Audit,
    running: Running,
    shown: Presentation,
    store: str | Path | None = None,
    watcher: Watcher | None = None,
) -> SweepReport:
    """Run what has no result yet, and gather all.

    Args:
        plan: The cells.
        audit: Does one.
        running: Where and how they run.
        shown: How their reports appear.
        store: Folder or URL of the results; by default a temporary folder, which goes with the report.
        watcher: Told the progress of the sweep.

    Raises:
        UsageError: A runner or a format that is not there or does not fit, or a store that refuses.
    """
    from leakaudit.report.formats.registry import chosen

    started = time.monotonic()
    chosen(shown.formats)  # an hour of audit is too late to learn that there is no such format
    watcher = watcher or SilentWatcher()
    jobs = jobs_of(plan, shown)
    with ExitStack() as stack:
        kept = Store(place_of(_temporary(stack) if store is None else store))
        results, runner = _driven(jobs, kept, running, audit, watcher)
        judged = [_judged(kept, result, shown) for result in results]
        document = document_of(plan, jobs, judged, running.runner, runner)
        document.seconds = time.monotonic() - started
        report = SweepReport(document, jobs, kept, shown)
        weakref.finalize(report, stack.pop_all().close)
    return report


def _temporary(stack: ExitStack) -> Path:
    """A folder that goes when the stack is closed, whatever happens until then."""
    folder = Path(tempfile.mkdtemp(prefix="leakaudit-sweep-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _driven(
    jobs: Sequence[Job], kept: Store, running: Running, audit: Audit, watcher: Watcher
) -> tuple[list[Result], Runner]:
    """The results of all cells, and the runner, closed, that gave them."""
    try:
        if running.again:
            kept.forget(kept.finished() & {job.task.key for job in jobs})
        runner = make_runner(running, audit, _Following(watcher))
        try:
            return drive(jobs, kept, runner, watcher), runner
        finally:
            runner.close()
    finally:
        kept.close()


class _Following(SilentObserver):
    """The observer of a cell in this process: says nothing, and stops when the sweep does."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def interrupted(self) -> bool:
        """Whether the sweep is to stop."""
        return self._watcher.interrupted()


def make_runner(running: Running, audit: Audit, observer: Observer) -> Runner:
    """The runner that was asked for.

    Raises:
        UsageError: It is not installed, or takes no such option.
    """
    if running.runner != "ray" and (running.address is not None or running.cards is not None):
        name = "--address" if running.address is not None else "--gpus"
        raise UsageError(f"{name} is of Ray, and the runner is {running.runner}", "pass --runner ray")
    if running.runner == "here":
        if running.workers not in (None, 1):
            raise UsageError(f"workers is {running.workers}, in this process it is 1", "pass --runner processes")
        return Here(audit, observer, running.limits, running.threads)
    if running.runner == "processes":
        from leakaudit.sweeps.runners.processes import Processes

        return Processes(audit, running.workers, running.threads, running.limits)
    from leakaudit.sweeps.runners.on_ray import OnRay

    return OnRay(audit, running.workers, running.threads, running.limits, running.address, running.cards)


def _judged(store: Store, result: Result, shown: Presentation) -> Result:
    """The result by the policy of this sweep, where an earlier one had another; the store then has it, too."""
    if result.status is not CellStatus.DONE or result.policy == shown.judged_by:
        return result
    found = store.get(result.key)
    if found is None:
        return result
    again = rejudged(found, shown)
    store.put(again)
    return replace(again, files={})


def document_of(plan: Plan, jobs: Sequence[Job], results: Sequence[Result], name: str, runner: Runner) -> SweepDocument:
    """The document of a sweep."""
    untried = sum(result.status is CellStatus.NOT_RUN for result in results)
    return SweepDocument(
        tool=Tool(version=__version__),
        created=timestamp(),
        name=plan.name,
        runner=name,
        workers=runner.slots,
        threads=runner.threads,
        partial=f"interrupted: {untried} of {len(results)} cells were not tried" if untried else "",
        axes={axis: list(values) for axis, values in plan.axes.items()},
        cells=entries(jobs, results),
    )
