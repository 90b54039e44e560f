"""A report that writes its own files: what `leakaudit.scan` returns.

The document (`leakaudit.document.schema`) knows no writer; this class joins the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from leakaudit.document import schema
from leakaudit.report.write import write_report


class Report(schema.Report):
    """An audit report. `save` writes it; `scan` returns it; `load` reads a ``report.json``."""

    def save(
        self,
        directory: str | Path,
        formats: Sequence[str] = (),
        template_dir: Path | None = None,
        pdf_variant: str = "pdf/ua-1",
        paths: Literal["short", "full"] = "short",
    ) -> list[Path]:
        """Write ``report.json``, ``report.html``, ``report.pdf`` and other views into a directory.

        Everything is rendered in memory first and moved over an older report only when complete. A report of an
        interrupted audit goes into the sub-folder ``partial`` where the directory holds a complete one. Below full
        evidence, older files of leakaudit that are not written anew are removed: they would show what this one hides.

        Args:
            directory: Created if missing.
            formats: Any of ``json``, ``html``, ``pdf``, ``sarif``, ``junit``, ``markdown``, ``csv`` and what other
                packages bring; empty for the first three.
            template_dir: Folder whose templates override the bundled ones.
            pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives).
            paths: ``short`` leaves out folders outside the working folder, ``full`` writes paths as they were given.

        Returns:
            The files written. The PDF is left out, with a warning, where its libraries are missing.

        Raises:
            UsageError: The directory is not writable.
        """
        return write_report(self, Path(directory), formats, template_dir, pdf_variant, paths)
