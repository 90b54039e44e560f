"""Progress on stderr: a bar per attack on a terminal, plain lines otherwise; Ctrl-C and SIGTERM ask it to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from leakaudit.cli.output import Terminal, guarded
from leakaudit.safety.text import shown


class TerminalObserver:
    """An audit's progress for a person.

    Args:
        verbosity: -1 says nothing, 0 shows stages and bars, 1 adds a line when an attack begins and per result.
    """

    def __init__(self, verbosity: int) -> None:
        self._terminal = Terminal(err=True)
        self.verbosity = verbosity
        self._interrupted = False
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% objective {task.fields[objective]:.2e}"),
            TimeRemainingColumn(),
            console=self._terminal.console,
            transient=True,
            disable=verbosity < 0 or not self._terminal.console.is_terminal,
        )
        self._task: TaskID | None = None

    def stage(self, message: str) -> None:
        """Name the stage."""
        if self.verbosity >= 0:
            self._terminal.line(f"· {message}")

    def attack(self, title: str, victim: int, victims: int) -> None:
        """Start a bar."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        what = f"{title}, victim {victim + 1} of {victims}"
        self._task = self._bar.add_task(shown(what, wrapped=True), total=1.0, objective=float("nan"))
        if self.verbosity > 0:
            self._terminal.line(f"  {what} begins")

    def progress(self, fraction: float, objective: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=fraction, objective=objective)

    def result(self, title: str, summary: str) -> None:
        """One line per result, when asked for or when there is no bar to look at."""
        if self.verbosity > 0 or (self.verbosity == 0 and not self._terminal.console.is_terminal):
            self._terminal.line(f"  {title}, {summary}")

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed, or the process was told to end."""
        return self._interrupted

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar; the first Ctrl-C or SIGTERM asks the audit to stop with what it has, the second ends all."""
        with stopping(self._stop), self._bar, guarded():  # the bar puts streams of its own in place of guarded ones
            yield

    def _stop(self) -> bool:
        first, self._interrupted = not self._interrupted, True
        if first:
            self._terminal.line("Stopping: the report will say what is missing. Ctrl-C again ends at once.")
        return first


@contextmanager
def stopping(asked: Callable[[], bool]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM call a function; where it returns False they end all at once."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if not asked():
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
