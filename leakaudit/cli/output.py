"""All that a command writes to a terminal or a log: nothing in a name is a command to the terminal or to CI.

Names come from models, batches, policies and reports. Commands write whole lines with :func:`say`, or styled ones with
:class:`Terminal`; both show each line by :func:`leakaudit.report.wording.shown`. What libraries write (warnings, log
records, tracebacks) meets the same function in :func:`guarded`, through which standard output and error are led.

A stream that is closed, full, or read by nobody ends no command: what cannot be written is dropped (:class:`Steady`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from leakaudit.errors import LeakauditError
from leakaudit.safety.confined import out_of_memory
from leakaudit.safety.text import shown

if TYPE_CHECKING:
    from rich.console import Console


def say(*lines: object, err: bool = False) -> None:
    """Write lines; a new line inside one is shown as ``\\n``.

    Args:
        lines: Anything with a text.
        err: To standard error.
    """
    for line in lines:
        click.echo(shown(str(line)), err=err)


def say_json(value: Any) -> None:
    """Write a value as JSON. What :func:`say` would show is escaped as JSON escapes it, so that the value stays."""
    text = json.dumps(value, indent=2).replace("##", "#\\u0023").replace("\x7f", "\\u007f")
    say(*text.split("\n"))


def say_error(error: Exception) -> int:
    """Write one line and a hint about an error, and return the exit code that it stands for."""
    if isinstance(error, LeakauditError):
        say(f"Error: {error.message}", err=True)
        if error.hint:
            say(f"Hint:  {error.hint}", err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        _say_click_error(error)
        return 2
    if isinstance(error, OSError):
        return _say_system_error(error)
    if out_of_memory(error):
        say(f"Error: not enough memory ({' '.join(str(error).split())[:200] or type(error).__name__})", err=True)
        say("Hint:  lower --batch-size, or use a machine with more memory", err=True)
        return 3
    say(f"Error: internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}", err=True)
    say("Hint:  this is a defect of leakaudit; run again with --debug and report the traceback", err=True)
    return 3


def _say_system_error(error: OSError) -> int:
    """What the system refused is no defect: a full disk, a name that is too long, a file that may not be read."""
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    say(f"Error: {place}{error.strerror or error}", err=True)
    say("Hint:  the system refused this: check the path, its permissions and the space on the disk", err=True)
    return 2


def _say_click_error(error: click.ClickException) -> None:
    """As click does, by lines: the usage, then what is wrong with it."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        say(*message.split("\n"), err=True)
        return
    if context is not None:
        say(*context.get_usage().split("\n"), err=True)
        say(f"Try '{context.command_path} {context.help_option_names[0]}' for help.", "", err=True)
    say(f"Error: {' '.join(message.split())}", err=True)


class Terminal:
    """Styled lines and tables; colours only where the stream is a terminal.

    Args:
        err: To standard error.
    """

    def __init__(self, err: bool = False) -> None:
        from rich.console import Console

        stream = _plain(sys.stderr if err else sys.stdout)
        self.console: Console = Console(file=stream, stderr=err, highlight=False, markup=False, emoji=False)

    def line(self, text: str, head: str = "", style: str = "") -> None:
        """One line, however long, after a head in bold, and in a colour if `style` names one."""
        from rich.text import Text

        whole = shown(head + text)
        styled = Text(whole)
        styled.stylize(f"bold {style}".strip(), 0, len(shown(head)))
        self.console.print(styled, soft_wrap=True)

    def paragraph(self, text: str, after: int = 0) -> None:
        """A text broken into lines as wide as the terminal.

        Args:
            text: The paragraph.
            after: Empty lines after it.
        """
        from rich.padding import Padding
        from rich.text import Text

        self.console.print(Padding(Text(shown(text, wrapped=True)), (0, 0, after, 0)))

    def table(
        self, title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], styles: Sequence[str] = ()
    ) -> None:
        """A table: names in the first column, folded where they are long, numbers in the others; ``None`` is a dash.

        Args:
            title: Above it; "" for none.
            headings: Of the columns.
            rows: As many cells each.
            styles: Of the rows on a terminal with colours, if given.
        """
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        def cell(value: object) -> Text:
            return Text("-" if value is None else shown(str(value), wrapped=True))

        table = Table(
            title=cell(title) if title else None,
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        table.add_column(cell(headings[0]), overflow="fold", min_width=6)
        for heading in headings[1:]:
            table.add_column(cell(heading), justify="right", no_wrap=True, min_width=len(heading))
        for row, style in zip(rows, styles or [""] * len(rows), strict=True):
            table.add_row(*map(cell, row), style=style)
        self.console.print(table)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, whatever is written to ``sys.stdout`` or ``sys.stderr`` is shown as :func:`say` shows it."""
    before = sys.stdout, sys.stderr
    out, err = (cast(TextIO, _Guard(Steady(_plain(stream)))) for stream in before)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:  # click puts something else there when a pipe was closed, and that has to stay
        sys.stdout = before[0] if sys.stdout is out else sys.stdout
        sys.stderr = before[1] if sys.stderr is err else sys.stderr


def cut_off() -> OSError | None:
    """Why not all lines could be written to standard output, or ``None``."""
    sys.stdout.flush()
    failure: OSError | None = getattr(sys.stdout, "failure", None)
    return failure


def _plain(stream: Any) -> Any:
    """The stream under all guards."""
    plain: Any = stream
    while isinstance(plain, _Guard):
        plain = plain.stream
    return plain


class Steady:
    """A text stream that drops what cannot be written: it is closed, on a full disk, or nobody reads it any more.

    Args:
        stream: The stream; ``None`` where the program was started without one.
    """

    def __init__(self, stream: TextIO | Steady | None) -> None:
        self.stream: Any = stream.stream if isinstance(stream, Steady) else stream
        self.failure: OSError | None = stream.failure if isinstance(stream, Steady) else None

    def write(self, text: str) -> int:
        """Write a piece of text, if that is possible.

        Raises:
            UnicodeEncodeError: The stream has no code for it.
        """
        self._tried("write", text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if that is possible."""
        self._tried("flush")

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and not self.stream.closed and bool(self.stream.isatty())

    @property
    def encoding(self) -> str:
        """Of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def _tried(self, name: str, *given: str) -> None:
        if self.failure is not None or self.stream is None or self.stream.closed:
            return
        try:
            getattr(self.stream, name)(*given)
        except OSError as error:
            self.failure = error
            self._emptied()

    def _emptied(self) -> None:
        """Lead the stream to nowhere, so that what it holds back raises nothing when the program ends."""
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Guard:
    """A text stream that shows what is written to it; only ``\n`` ends a line."""

    def __init__(self, stream: TextIO | Steady) -> None:
        self.stream: Any = stream
        self._lead = ""  # of the unfinished line: blanks, then at most one colon; "x" for anything else

    def write(self, text: str) -> int:
        """Write a piece of text, which may hold parts of lines.

        Raises:
            TypeError: It is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected text, got {type(text).__name__}")
        first, *others = text.split("\n")
        pieces = [self._piece(first)]
        for other in others:
            self._lead = ""
            pieces.append(self._piece(other))
        self._put("\n".join(pieces))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write pieces of text."""
        for line in lines:
            self.write(line)

    def _piece(self, piece: str) -> str:
        """A part of one line, as it goes on after what is out already."""
        lead, flat = self._lead, shown("x" + piece)[1:]
        line = lead + flat
        self._lead = line if line.strip() in ("", ":") else "x"
        if not line.lstrip().startswith("::"):
            return flat
        place = max(line.index("::") + 1 - len(lead), 0)
        return f"{flat[:place]}\\{flat[place:]}"

    def _put(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            code = self.stream.encoding or "ascii"
            self.stream.write(text.encode(code, "backslashreplace").decode(code))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
