"""The contract of a format of the report: one value says all that the rest of the program has to know of it.

A package brings a format by an entry point of the group ``leakaudit.formats`` that names a :class:`Format`; the entry
point's name is the one on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from leakaudit.document.schema import Report

HEAD = 65536
"""Bytes of a file, or of a stream in it, that are looked at to tell whose it is."""


class FormatUnavailable(Exception):
    """A library that a format needs is missing; the message is the notice for the user. The other files are written."""


class ReportWarning(UserWarning):
    """Something about the report's files that its reader should know; what was written is complete."""


def _no(content: bytes) -> bool:
    return False


def _nothing() -> None:
    pass


@dataclass(frozen=True, eq=False)
class Rendering:
    """What a format is given.

    Args:
        report: The document, redacted already.
        template_dir: Folder whose templates override the bundled ones, or ``None``.
        pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives).
    """

    report: Report
    template_dir: Path | None = None
    pdf_variant: str = "pdf/ua-1"

    @cached_property
    def view(self) -> Any:
        """Figures, tables and texts that the pages share; built once."""
        from leakaudit.report.views.view import build_view

        return build_view(self.report)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Args:
        name: On the command line; that of its entry point.
        file: Name of the file in the report's folder.
        title: One line for lists.
        render: The content: text, or bytes where `binary`. May raise :class:`FormatUnavailable`.
        binary: Whether it returns bytes.
        default: Whether it is written where nobody names formats.
        pictures: Whether private images and texts appear in it, as the evidence level of the report allows.
        document: Whether it is the document itself, which is written last: where it is new, the views are new too.
        failure: What it says of an audit that could not be done, from the model's name and a message; ``None`` for a
            format that has no way to say it: an older file of it stays.
        ours: Whether the content of a file was written by leakaudit; what is not is never removed.
        needs: Raises :class:`FormatUnavailable` where a library is missing, so that it is known before an audit.
        failed: Whether a content says no more than that an audit failed, so that it may be replaced.
    """

    name: str
    file: str
    title: str
    render: Callable[[Rendering], str | bytes]
    binary: bool = False
    default: bool = False
    pictures: bool = False
    document: bool = False
    failure: Callable[[str, str], str] | None = None
    ours: Callable[[bytes], bool] = _no
    failed: Callable[[bytes], bool] = _no
    needs: Callable[[], object] = _nothing

    def content(self, rendering: Rendering) -> bytes:
        """The file's bytes.

        Raises:
            FormatUnavailable: A library is missing.
            TypeError: The renderer returned text where bytes were declared, or the other way round.
        """
        made = self.render(rendering)
        if isinstance(made, bytes) is not self.binary:
            expected = "bytes" if self.binary else "text"
            raise TypeError(f"the format {self.name!r} returned {type(made).__name__}, declared is {expected}")
        return made if isinstance(made, bytes) else made.encode("utf-8", "replace")
