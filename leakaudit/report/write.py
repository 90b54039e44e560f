"""Write the report's files so that a reader never meets half of one, and a failed run never harms an older report.

Everything is rendered in memory and written by `leakaudit.report.files`; ``report.json`` comes last. Files are readable
by their owner only: they hold private images.

A report of an interrupted audit goes beside a complete one, into :data:`PARTIAL`, which the next complete report
removes. Below full evidence, older files of leakaudit that are not written anew are removed: they would show what the
new ones hide.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from leakaudit.document.paths import short_paths
from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.report.earlier import is_ours, is_partial, is_redundant_failure
from leakaudit.report.files import prepare, replace_files

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
PARTIAL = "partial"
"""Sub-folder for what an interrupted or failed audit has to say where a complete report is."""


class ReportWarning(UserWarning):
    """Something about the report's files that its reader should know; what was written is complete."""


def write_report(
    report: Report,
    directory: Path,
    formats: tuple[str, ...] = DEFAULT_FORMATS,
    template_dir: Path | None = None,
    pdf_variant: str = "pdf/ua-1",
    paths: Literal["short", "full"] = "short",
) -> list[Path]:
    """Write the views of a report into a directory, each under its name in :data:`FILES`.

    Args:
        report: The document.
        directory: Created if missing. Where it holds a complete report and this one is partial, its sub-folder
            :data:`PARTIAL` is written instead.
        formats: Any keys of :data:`FILES`.
        template_dir: Folder whose templates override the bundled ones.
        pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives, with report.json attached).
        paths: ``short`` leaves out folders outside the working folder, ``full`` writes paths as they were given.

    Returns:
        The files written, ``report.json`` last. Where the PDF libraries are missing the PDF is left out, with
        a :class:`ReportWarning` that says how to install them.

    Raises:
        UsageError: An unknown format, a directory that is not writable, a template that does not work.
    """
    if unknown := sorted(set(formats) - set(FILES)):
        raise UsageError(f"unknown report format {', '.join(unknown)}", f"choose from {', '.join(FILES)}")
    report = short_paths(report) if paths == "short" else report
    place = directory / PARTIAL if report.partial and _holds_complete(directory) else directory
    prepare(place)
    written = replace_files(place, dict(_rendered(report, formats, template_dir, place, pdf_variant)))
    if not report.partial:
        _remove(directory / PARTIAL, FILES.values())
    if report.evidence != "full":
        _remove_fuller(place, {path.name for path in written})
    return written


def write_beside(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write what a failed audit has to say; where that would replace a report, into the sub-folder :data:`PARTIAL`."""
    taken = any((directory / n).exists() and not is_redundant_failure(directory / n) for n in files)
    return replace_files(directory / PARTIAL if taken else directory, files)


def _holds_complete(directory: Path) -> bool:
    """Whether a directory has files of these names that no partial report may replace."""
    document = directory / FILES["json"]
    return any((directory / name).exists() for name in FILES.values()) and not is_partial(document)


def _remove(directory: Path, names: Iterable[str]) -> list[str]:
    """Remove files of leakaudit, and the directory if it is empty then; the names of those removed."""
    removed = [name for name in names if is_ours(directory / name)]
    for name in removed:
        (directory / name).unlink(missing_ok=True)
    if directory.name == PARTIAL:
        with suppress(OSError):  # not empty, or not there
            directory.rmdir()
    return removed


def _remove_fuller(directory: Path, written: set[str]) -> None:
    """Remove older views of leakaudit, which may show what the new report hides; warn of what is not its own."""
    older = [name for name in FILES.values() if name not in written and (directory / name).is_file()]
    removed = _remove(directory, older)
    if removed:
        names = ", ".join(removed)
        text = f"removed {names} of an earlier audit from {directory}, which may show what this report leaves out"
        warnings.warn(text, ReportWarning, stacklevel=4)
    for name in sorted(set(older) - set(removed)):
        text = (
            f"{directory / name} was left: it does not look like a report of leakaudit; if it is one, it may show more"
        )
        warnings.warn(text, ReportWarning, stacklevel=4)


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
            stays = report.evidence == "full" and _has_pdf(directory)
            old = " The report.pdf in that folder is from an earlier audit." if stays else ""
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
