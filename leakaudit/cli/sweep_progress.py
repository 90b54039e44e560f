"""Progress of a sweep on stderr: a bar of cells with the time left on a terminal, a line for each cell otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from leakaudit.cli.output import Terminal, guarded
from leakaudit.cli.progress import stopping
from leakaudit.report.wording import seconds
from leakaudit.safety.text import shown

if TYPE_CHECKING:
    from leakaudit.sweeps.engine import Progress as Far
    from leakaudit.sweeps.grid import Cell
    from leakaudit.sweeps.results import Result


class SweepTerminal:
    """A sweep's progress for a person.

    Args:
        quiet: Say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._terminal = Terminal(err=True)
        self._quiet = quiet
        self._interrupted = False
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("cells", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._terminal.console,
            transient=True,
            disable=quiet or not self._terminal.console.is_terminal,
        )
        self._task: TaskID | None = None

    def begins(self, progress: Far, workers: int) -> None:
        """Say how much there is to do."""
        known = progress.done + progress.failed
        before = f", {known} of them before" if known else ""
        self.stage(f"{progress.total} cells{before}, {workers} at a time")
        self._task = self._bar.add_task("", total=progress.total, completed=known)

    def ended(self, cell: Cell, result: Result, progress: Far) -> None:
        """A line for the cell, and the bar moved."""
        told = f"{progress.failed} failed" if progress.failed else ""
        left = "" if progress.left is None else f"about {seconds(progress.left)} left"
        far = ", ".join(filter(None, [f"{progress.done} of {progress.total} done", told, left]))
        if self._task is not None:
            self._bar.update(
                self._task, completed=progress.done + progress.failed, description=shown(f"{told} {left}", wrapped=True)
            )
        outcome = f"{result.status}: {result.reason}" if result.facts is None else result.facts.verdict
        self.stage(f"cell {cell.number} ({cell.title}): {outcome}, {seconds(result.seconds)}; {far}")

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed, or the process was told to end."""
        return self._interrupted

    def stage(self, message: str) -> None:
        """A line."""
        if not self._quiet:
            self._terminal.line(f"· {message}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar; the first Ctrl-C or SIGTERM ends the cells under way, the second ends all at once."""
        with stopping(self._stop), self._bar, guarded():
            yield

    def _stop(self) -> bool:
        first, self._interrupted = not self._interrupted, True
        if first:
            self._terminal.line("Stopping: cells under way are lost, the table will hold the others.")
        return first
