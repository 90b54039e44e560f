"""Write the report's files so that a reader never meets half of one, and a failed run never harms an older report.

Everything is rendered in memory and written by `leakaudit.report.files`; ``report.json`` comes last. Files are readable
by their owner only: they hold private images.

A report of an interrupted audit goes beside a complete one, into :data:`PARTIAL`, which the next complete report
removes. Below full evidence, older files of leakaudit that are not written anew are removed: they would show what the
new ones hide.

Where a report shows private samples, a ``.gitignore`` stands beside it (`leakaudit.report.ignoring`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from leakaudit.document.paths import short_paths
from leakaudit.document.schema import Report
from leakaudit.report.earlier import is_ours, is_partial, is_redundant_failure
from leakaudit.report.files import prepare, replace_files, told
from leakaudit.report.formats.base import Format, FormatUnavailable, Rendering, ReportWarning
from leakaudit.report.formats.registry import available, chosen
from leakaudit.report.ignoring import keep_out_of_git, remove_ours

PARTIAL = "partial"
"""Sub-folder for what an interrupted or failed audit has to say where a complete report is."""


def write_report(
    report: Report,
    directory: Path,
    formats: Sequence[str] = (),
    template_dir: Path | None = None,
    pdf_variant: str = "pdf/ua-1",
    paths: Literal["short", "full"] = "short",
) -> list[Path]:
    """Write the views of a report into a directory, each under the name that its format has.

    Args:
        report: The document.
        directory: Created if missing. Where it holds a complete report and this one is partial, its sub-folder
            :data:`PARTIAL` is written instead.
        formats: Names of installed formats (`leakaudit.report.formats.registry`); empty for the default ones.
        template_dir: Folder whose templates override the bundled ones.
        pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives).
        paths: ``short`` leaves out folders outside the working folder, ``full`` writes paths as they were given.

    Returns:
        The files written, ``report.json`` last. A format whose libraries are missing is left out, with a
        :class:`ReportWarning` that says how to install them.

    Raises:
        UsageError: An unknown format, a directory that is not writable, a template that does not work.
    """
    wanted = chosen(formats)
    report = short_paths(report) if paths == "short" else report
    place = directory / PARTIAL if report.partial and _holds_complete(directory) else directory
    prepare(place)
    files = dict(_rendered(wanted, Rendering(report, template_dir, pdf_variant), place))
    if report.evidence != "none" and (notice := _keep_out_of_git(place, files)):
        warnings.warn(notice, ReportWarning, stacklevel=3)
    written = replace_files(place, files)
    if not report.partial:
        _remove(directory / PARTIAL, _file_names())
    if report.evidence != "full":
        _remove_fuller(place, {path.name for path in written})
    return written


def write_beside(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write what a failed audit has to say; where that would replace a report, into the sub-folder :data:`PARTIAL`."""
    taken = any((directory / n).exists() and not is_redundant_failure(directory / n) for n in files)
    place = directory / PARTIAL if taken else directory
    prepare(place)
    _keep_out_of_git(place, files)
    return replace_files(place, files)


def _keep_out_of_git(place: Path, files: Mapping[str, bytes]) -> str:
    """See :func:`leakaudit.report.ignoring.keep_out_of_git`.

    Raises:
        UsageError: The folder is not writable.
    """
    ours = {PARTIAL, *(name for name in _file_names() if is_ours(place / name))}
    with told(place):
        return keep_out_of_git(place, ours, files)


def _holds_complete(directory: Path) -> bool:
    """Whether a directory has files of these names that no partial report may replace."""
    document = next(kind.file for kind in available().values() if kind.document)
    return any((directory / name).exists() for name in _file_names()) and not is_partial(directory / document)


def _remove(directory: Path, names: Iterable[str]) -> list[str]:
    """Remove files of leakaudit, and the directory if it is empty then; the names of those removed."""
    removed = [name for name in names if is_ours(directory / name)]
    for name in removed:
        (directory / name).unlink(missing_ok=True)
    if directory.name == PARTIAL:
        remove_ours(directory)
        with suppress(OSError):  # not empty, or not there
            directory.rmdir()
    return removed


def _remove_fuller(directory: Path, written: set[str]) -> None:
    """Remove older views of leakaudit, which may show what the new report hides; warn of what is not its own."""
    older = [name for name in _file_names() if name not in written and (directory / name).is_file()]
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


def _rendered(formats: Sequence[Format], rendering: Rendering, directory: Path) -> Iterator[tuple[str, bytes]]:
    """File names and contents, in the order in which they will appear."""
    for kind in formats:
        try:
            yield kind.file, kind.content(rendering)
        except FormatUnavailable as notice:
            stays = rendering.report.evidence == "full" and (directory / kind.file).exists()
            old = f" The {kind.file} in that folder is from an earlier audit." if stays else ""
            warnings.warn(f"{notice}{old}", ReportWarning, stacklevel=6)


def _file_names() -> list[str]:
    """Of every format."""
    return [kind.file for kind in available().values()]
