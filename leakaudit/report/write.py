"""Write the report's files so that a reader never meets half of one, and a failed run never harms an older report.

Everything is rendered into a temporary folder inside the target (so on the same file system, also where the target is a
mount point), flushed to disk, and renamed over the older files only when all of it is complete; ``report.json`` comes
last. Files are readable by their owner only: they hold private images.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leakaudit.document.schema import Report
from leakaudit.errors import UsageError

FILES = {
    "html": "report.html",
    "pdf": "report.pdf",
    "sarif": "report.sarif",
    "junit": "report.junit.xml",
    "markdown": "report.md",
    "csv": "scores.csv",
    "json": "report.json",
}
"""File names in the order of writing. The document last: where it is new, the views beside it are new too."""
DEFAULT_FORMATS = ("json", "html", "pdf")


class ReportWarning(UserWarning):
    """Part of the report could not be written; the rest is complete."""


def write_report(
    report: Report,
    directory: Path,
    formats: tuple[str, ...] = DEFAULT_FORMATS,
    template_dir: Path | None = None,
    pdf_variant: str = "pdf/ua-1",
) -> list[Path]:
    """Write the views of a report into a directory, each under its name in :data:`FILES`.

    Args:
        report: The document.
        directory: Created if missing.
        formats: Any keys of :data:`FILES`.
        template_dir: Folder whose templates override the bundled ones.
        pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives, with report.json attached).

    Returns:
        The files written, ``report.json`` last. Where the PDF libraries are missing the PDF is left out, with
        a :class:`ReportWarning` that says how to install them.

    Raises:
        UsageError: An unknown format, a directory that is not writable, a template that does not work.
    """
    if unknown := sorted(set(formats) - set(FILES)):
        raise UsageError(f"unknown report format {', '.join(unknown)}", f"choose from {', '.join(FILES)}")
    return replace_files(directory, _rendered(report, formats, template_dir, directory, pdf_variant))


def replace_files(directory: Path, files: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write files (name, content) into a directory, none of them before all contents are there.

    Raises:
        UsageError: The directory is not writable.
    """
    with _staging(directory) as staging:
        names = []
        for name, content in files:
            _write(staging / name, content)
            names.append(name)
        for name in names:
            os.replace(staging / name, directory / name)
    return [directory / name for name in names]


def _rendered(
    report: Report, formats: tuple[str, ...], template_dir: Path | None, directory: Path, pdf_variant: str
) -> Iterator[tuple[str, bytes]]:
    """File names and contents, in the order in which they will appear."""
    from leakaudit.report.formats.html import render_view
    from leakaudit.report.formats.pdf import PdfUnavailable, render_pdf
    from leakaudit.report.views.view import build_view

    view = build_view(report) if {"html", "pdf"} & set(formats) else None
    if "html" in formats:
        yield FILES["html"], render_view(report, view, template_dir, "screen").encode()
    if "pdf" in formats:
        try:
            yield FILES["pdf"], render_pdf(report, template_dir, view, pdf_variant)
        except PdfUnavailable as notice:
            old = " The report.pdf in that folder is from an earlier audit." if _has_pdf(directory) else ""
            warnings.warn(f"{notice}{old}", ReportWarning, stacklevel=6)
    for name, render in _text_views().items():
        if name in formats:
            yield FILES[name], render(report).encode("utf-8", "replace")


def _text_views() -> dict[str, Callable[[Report], str]]:
    from leakaudit.report.formats.csv import render_csv
    from leakaudit.report.formats.junit import render_junit
    from leakaudit.report.formats.markdown import render_markdown
    from leakaudit.report.formats.sarif import render_sarif

    return {
        "sarif": render_sarif,
        "junit": render_junit,
        "markdown": render_markdown,
        "csv": render_csv,
        "json": Report.to_json,
    }


def _has_pdf(directory: Path) -> bool:
    return (directory / "report.pdf").exists()


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A private temporary folder inside the directory, removed at the end whatever happens."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".leakaudit-", dir=directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot write the report to {directory}: {reason}", "choose another folder with --out"
        ) from error
    with folder as name:
        yield Path(name)


def _write(path: Path, content: bytes) -> None:
    """Create a file for its owner only, and have it on disk before anything is renamed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
