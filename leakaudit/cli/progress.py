"""Progress on stderr: one bar for the whole audit on a terminal, plain lines otherwise; Ctrl-C and SIGTERM stop it.

A pipe or a log is never silent for long: where no line came for `SILENCE` seconds, one says what is under way, how far
the run and the audit are, and how long the rest takes. The estimate begins with the first measured step.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from leakaudit.cli.output import Terminal, guarded
from leakaudit.safety.text import shown

LONGEST = 32
"""Characters of a bar's description; chosen, for terminals of 80 columns."""
SILENCE = 10.0
"""Seconds after which a line says what is under way, at most; chosen."""


class TerminalObserver:
    """An audit's progress for a person.

    Args:
        verbosity: -1 says nothing, 0 shows stages, results and a bar, 1 adds a line when an attack begins.
    """

    def __init__(self, verbosity: int) -> None:
        self._terminal = Terminal(err=True)
        self.verbosity = verbosity
        self._interrupted = False
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[rest]}", markup=False),
            console=self._terminal.console,
            transient=True,
            disable=verbosity < 0 or not self._terminal.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, rest="")
        self._now, self._work = "starting", _Work()
        self._spoken = time.monotonic()

    def stage(self, message: str) -> None:
        """Name the stage."""
        self._work.rest()
        self._under_way(message)
        if self._work.over:  # of a sweep the next audit counts anew
            self._bar.update(self._task, rest="")
        if self.verbosity >= 0:
            self._say(f"· {message}")

    def remark(self, message: str) -> None:
        """A line that is no stage: what is under way stays so."""
        if self.verbosity >= 0:
            self._say(f"· {message}")

    def plan(self, done: int, current: int, total: int) -> None:
        """Take down how much work there is, for the estimate."""
        if not done:
            self._bar.update(self._task, completed=0)
        self._work.plan(done, current, total)

    def attack(self, title: str, victim: int, victims: int) -> None:
        """Say what runs now."""
        self._under_way(title if victims == 1 else f"{title}, victim {victim + 1} of {victims}")
        if self.verbosity > 0:
            self._say(f"  {self._now} begins")

    def progress(self, fraction: float, objective: float) -> None:
        """Move the bar."""
        self._work.fraction = fraction
        share = self._work.share
        if share is not None:
            rest = f"{share:.0%} of the audit{self._work.left()}"
            self._bar.update(self._task, total=1.0, completed=share, rest=rest)

    def result(self, title: str, summary: str) -> None:
        """One line per result, on a terminal as much as in a pipe."""
        self._work.fraction = 1.0
        if self.verbosity >= 0:
            self._say(f"  {title}, {summary}")

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed, or the process was told to end."""
        return self._interrupted

    def pulse(self) -> None:
        """Say what is under way, if nothing was said for long; a terminal has its bar for that."""
        silent = time.monotonic() - self._spoken >= SILENCE
        if silent and self.verbosity >= 0 and not self._terminal.console.is_terminal:
            self._say(f"  … {self._now}{self._work.told()}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar; the first Ctrl-C or SIGTERM asks the audit to stop with what it has, the second ends all."""
        with stopping(self._stop), self._bar, guarded(), _pulsing(self.pulse):
            yield  # the bar puts streams of its own in place of guarded ones

    def _under_way(self, what: str) -> None:
        self._now = shown(what, wrapped=True)
        self._work.fraction = 0.0
        self._bar.update(self._task, description=_fitting(self._now))

    def _say(self, line: str) -> None:
        self._spoken = time.monotonic()
        self._terminal.line(line)

    def _stop(self) -> bool:
        first, self._interrupted = not self._interrupted, True
        if first:
            self._terminal.line("Stopping: the report will say what is missing. Ctrl-C again ends at once.")
        return first


def _fitting(what: str) -> str:
    """What is under way, so short that the bar and the estimate fit beside it on a line of 80 characters."""
    return what if len(what) <= LONGEST else f"{what[: LONGEST - 1]}…"


class _Work:
    """How far the audit is, in steps of attacks, and how long the rest takes at the speed so far."""

    def __init__(self) -> None:
        self.fraction = 0.0
        self._done = self._current = self._total = 0
        self._began: float | None = None

    def plan(self, done: int, current: int, total: int) -> None:
        """Steps that are done, that the next run has, and of all runs together."""
        self._done, self._current, self._total, self.fraction = done, current, max(total, done + current), 0.0
        if self._began is None or not done:  # another audit counts anew
            self._began = time.monotonic()

    def rest(self) -> None:
        """No run is under way."""
        self._done, self._current, self.fraction = self._done + round(self.fraction * self._current), 0, 0.0

    @property
    def over(self) -> bool:
        """Whether nothing of the plan is left."""
        return bool(self._total) and self._done >= self._total

    @property
    def share(self) -> float | None:
        """Of the whole audit, from 0 to 1; ``None`` before it is planned."""
        return (self._done + self.fraction * self._current) / self._total if self._total else None

    def left(self) -> str:
        """``, about 2 min 10 s left``, or nothing before a step was measured."""
        from leakaudit.report.wording import seconds

        if not self.share or self._began is None:
            return ""
        spent = time.monotonic() - self._began
        return f", about {seconds(spent * (1 - self.share) / self.share)} left"

    def told(self) -> str:
        """The run and the whole, for a line."""
        if self.share is None or not self._current:
            return ""
        return f": {self.fraction:.0%}; {self.share:.0%} of the audit{self.left()}"


@contextmanager
def _pulsing(pulse: Callable[[], None], every: float = 1.0) -> Iterator[None]:
    """Inside, a function is called every so many seconds, whatever the program is busy with."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every):
            pulse()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=2 * every)


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
