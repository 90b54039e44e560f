"""What the machine-readable formats say when an audit could not be done: an error, never an empty success."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from leakaudit.document.paths import shortener
from leakaudit.errors import LeakauditError
from leakaudit.report.formats.markdown import failure_markdown
from leakaudit.report.formats.registry import chosen
from leakaudit.report.wording import clip
from leakaudit.report.write import write_beside
from leakaudit.safety.text import shown


def write_failure(
    directory: Path,
    formats: Sequence[str],
    model: Path,
    error: Exception,
    paths: Iterable[str] = (),
    *,
    discreet: bool = False,
) -> list[Path]:
    """Write the formats of these that can say it; older files of a report stay as they are.

    Args:
        directory: For the report; where it holds one, the sub-folder ``partial`` is written instead.
        formats: Those asked for.
        model: Its file.
        error: What happened.
        paths: Files and folders whose place is not to be said.
        discreet: Leave out messages that may quote samples, as below full evidence.

    Returns:
        The files written.
    """
    message = shown(clip(_message(error, paths, discreet), 900))
    files = {f.file: f.failure(model.name, message).encode() for f in chosen(formats) if f.failure is not None}
    return write_beside(directory, files) if files else []


def failure_summary(model: Path, error: Exception, paths: Iterable[str] = (), *, discreet: bool = False) -> str:
    """What a job page says of it; arguments as above."""
    return failure_markdown(model.name, shown(clip(_message(error, paths, discreet), 900)))


def _message(error: Exception, paths: Iterable[str], discreet: bool) -> str:
    """What may be said of an error, without folders."""
    quoting = error.quotes_samples if isinstance(error, LeakauditError) else True
    if discreet and quoting:
        return error.discreet if isinstance(error, LeakauditError) else type(error).__name__
    text = str(error) or type(error).__name__
    return shortener([*paths, *re.findall(r"(?:[A-Za-z]:)?[/\\][^\s'\":,;]+", text)])(text)
