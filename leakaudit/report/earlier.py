"""Files that an earlier run left in the report's folder: whether they are leakaudit's, and what they say.

A file is taken for leakaudit's by its content, never by its name alone: whoever passes ``--out .`` keeps a
``report.pdf`` or ``scores.csv`` of their own. Each format tells its own (`leakaudit.report.formats.base.Format`).
"""

from __future__ import annotations

from pathlib import Path

from leakaudit.report.formats.base import Format
from leakaudit.report.formats.document import parsed
from leakaudit.report.formats.registry import available


def is_ours(path: Path) -> bool:
    """Whether this is a file that leakaudit wrote under this name."""
    kind = _format_of(path)
    return kind is not None and kind.ours(_content(path))


def is_partial(path: Path) -> bool:
    """Whether this is the report.json of an interrupted audit."""
    return is_ours(path) and bool(parsed(_content(path)).get("partial"))


def is_redundant_failure(path: Path) -> bool:
    """Whether this is a file that only says that an audit failed."""
    kind = _format_of(path)
    return kind is not None and is_ours(path) and kind.failed(_content(path))


def _format_of(path: Path) -> Format | None:
    return next((kind for kind in available().values() if kind.file == path.name), None)


def _content(path: Path) -> bytes:
    """Of a file that can be read and is no link; empty otherwise."""
    if not path.is_file() or path.is_symlink():
        return b""
    try:
        return path.read_bytes()
    except OSError:
        return b""
