"""Write the report's files so that a reader never meets half of one, and a failed run never harms an older report.

Everything is rendered into a temporary folder inside the target (so on the same file system, also where the target is a
mount point), flushed to disk, and renamed over the older files only when all of it is complete; ``report.json`` comes
last. Files are readable by their owner only: they hold private images.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.report.formats.base import Format, FormatUnavailable, Rendering
from leakaudit.report.formats.registry import chosen


class ReportWarning(UserWarning):
    """Part of the report could not be written; the rest is complete."""


def write_report(
    report: Report,
    directory: Path,
    formats: Sequence[str] = (),
    template_dir: Path | None = None,
    pdf_variant: str = "pdf/ua-1",
) -> list[Path]:
    """Write the views of a report into a directory, each under the name that its format has.

    Args:
        report: The document.
        directory: Created if missing.
        formats: Names of installed formats (`leakaudit.report.formats.registry`); empty for the default ones.
        template_dir: Folder whose templates override the bundled ones.
        pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives, with report.json attached).

    Returns:
        The files written, ``report.json`` last. A format whose libraries are missing is left out, with a
        :class:`ReportWarning` that says how to install them.

    Raises:
        UsageError: An unknown format, a directory that is not writable, a template that does not work.
    """
    rendering = Rendering(report, template_dir, pdf_variant)
    return replace_files(directory, _rendered(chosen(formats), rendering, directory))


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


def _rendered(formats: Sequence[Format], rendering: Rendering, directory: Path) -> Iterator[tuple[str, bytes]]:
    """File names and contents, in the order in which they will appear."""
    for kind in formats:
        try:
            yield kind.file, kind.content(rendering)
        except FormatUnavailable as notice:
            older = (directory / kind.file).exists()
            old = f" The {kind.file} in that folder is from an earlier audit." if older else ""
            warnings.warn(f"{notice}{old}", ReportWarning, stacklevel=6)


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
