"""What a sweep found: its document, and the files that it writes.

::

    OUT/sweep.json  sweep.csv  sweep.html  (sweep.parquet where pyarrow is installed)
    OUT/cells/0001/report.json  report.html  …

The reports come out of the store as they were rendered where the cell ran; only those that were judged by another
policy, or lack a format, are judged and rendered again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leakaudit.document.earlier import upgraded
from leakaudit.document.schema import HASH_KEY
from leakaudit.document.status import CellStatus
from leakaudit.document.sweep import CellEntry, SweepDocument
from leakaudit.errors import UsageError
from leakaudit.report.earlier import is_ours
from leakaudit.report.files import prepare, replace_files, told
from leakaudit.report.formats.csv import harmless_cell
from leakaudit.report.ignoring import keep_out_of_git
from leakaudit.report.saving import Report
from leakaudit.scoring.interval import leak_interval
from leakaudit.sweeps.cells import Presentation, result_of
from leakaudit.sweeps.engine import Job
from leakaudit.sweeps.results import DOCUMENT, Result
from leakaudit.sweeps.store import Store

CELLS = "cells"
TABLES = ("sweep.json", "sweep.csv", "sweep.html", "sweep.parquet")
DIGITS = 4
"""Of a cell's number in the name of its folder, at least; chosen, so that names sort."""
_OWN_AXES = ("model", "mode", "defence", "seed")


class SweepReport:
    """A sweep's cells, with the report of each that was audited.

    Args:
        document: The table.
        jobs: The cells, in its order.
        store: Where their results lie.
        shown: How the reports appear.
    """

    def __init__(self, document: SweepDocument, jobs: Sequence[Job], store: Store, shown: Presentation) -> None:
        self.document = document
        self._jobs, self._store, self._shown = jobs, store, shown

    @property
    def cells(self) -> list[CellEntry]:
        """One entry for each cell."""
        return self.document.cells

    @property
    def exit_code(self) -> int:
        """That of the command line: 130 not all tried, 3 some not audited, 1 the policy fails some, 5 inconclusive."""
        return self.document.exit_code

    def report(self, number: int) -> Report:
        """The full report of a cell.

        Args:
            number: Of the cell, from 1.

        Raises:
            UsageError: It has none.
        """
        found = self._store.get(self._jobs[number - 1].task.key)
        if found is None or found.status is not CellStatus.DONE:
            raise UsageError(f"cell {number} has no report", "its status and reason say why")
        return report_in(found)

    def save(self, directory: str | Path, template_dir: Path | None = None) -> list[Path]:
        """Write the tables, the page, and a folder with the report of each cell.

        Args:
            directory: Created if missing. Folders of cells of an earlier sweep in it are emptied of reports.
            template_dir: Folder whose templates override the bundled ones.

        Returns:
            The files of the sweep itself, without those of its cells.

        Raises:
            UsageError: The directory is not writable.
        """
        out = Path(directory)
        prepare(out)
        for job, entry in zip(self._jobs, self.cells, strict=True):
            if entry.report is not None and (found := self._store.get(job.task.key)) is not None:
                _write_cell(out / entry.report, wanted(rejudged(found, self._shown), self._shown))
        _empty_others(out, {cell.report for cell in self.cells if cell.report})
        files = tables(self.document, template_dir)
        if self._shown.evidence != "none":
            with told(out):
                keep_out_of_git(out, {CELLS, "store", *TABLES}, [*files, CELLS])
        return replace_files(out, files)


def report_in(result: Result) -> Report:
    """The report of a cell's result.

    Raises:
        UsageError: It is none, though the result was whole: the store holds what no sweep has put there.
    """
    try:
        document = json.loads(result.files[DOCUMENT])
        document.pop(HASH_KEY, None)
        return Report.model_validate(upgraded(document), extra="ignore")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"the result {result.key[:12]} in the store holds no report of leakaudit", "remove it from the store"
        ) from error


def rejudged(result: Result, shown: Presentation) -> Result:
    """A result judged and rendered as is asked for; as it is, where it already is."""
    if result.policy == shown.judged_by and set(_names(shown)) <= set(result.files):
        return result
    return result_of(result.key, report_in(result), shown, result.seconds)


def wanted(result: Result, shown: Presentation) -> dict[str, bytes]:
    """The files of a result that were asked for, and that could be rendered."""
    return {name: result.files[name] for name in _names(shown) if name in result.files}


def _names(shown: Presentation) -> list[str]:
    from leakaudit.report.formats.registry import chosen

    return [kind.file for kind in chosen(shown.formats)]


def entry_of(job: Job, result: Result, digits: int) -> CellEntry:
    """The entry of a cell in the table."""
    labels = job.cell.labels
    facts = result.facts
    found: dict[str, Any] = {}
    if facts is not None:
        interval = leak_interval(facts.leaked, facts.samples)
        names = ("verdict", "severity", "leaked", "samples", "closest", "metric", "told", "attack")
        found = {name: getattr(facts, name) for name in names}
        found |= {"failing": list(facts.failing), "interval": None if interval is None else list(interval)}
    done = result.status is CellStatus.DONE
    return CellEntry.model_validate(
        {
            "number": job.cell.number,
            **{axis: labels[axis] for axis in ("model", "mode", "defence")},
            "seed": job.cell.request.seed,
            "options": {axis: text for axis, text in labels.items() if axis not in _OWN_AXES},
            "status": result.status,
            "reason": result.reason,
            **found,
            "seconds": result.seconds,
            "report": f"{CELLS}/{job.cell.number:0{digits}d}" if done else None,
            "key": result.key,
        }
    )


def entries(jobs: Sequence[Job], results: Iterable[Result]) -> list[CellEntry]:
    """The table's entries."""
    digits = max(DIGITS, len(str(len(jobs))))
    return [entry_of(job, result, digits) for job, result in zip(jobs, results, strict=True)]


# Files


def tables(document: SweepDocument, template_dir: Path | None = None) -> dict[str, bytes]:
    """The files of a sweep by name: the document, the table, the page."""
    from leakaudit.report.sweep import render_sweep

    files = {"sweep.csv": table_csv(document).encode("utf-8", "replace")}
    if (parquet := table_parquet(document)) is not None:
        files["sweep.parquet"] = parquet
    files["sweep.html"] = render_sweep(document, template_dir).encode("utf-8", "replace")
    return {**files, "sweep.json": document.to_json().encode("utf-8", "replace")}


def rows(document: SweepDocument) -> list[dict[str, Any]]:
    """The cells as flat rows with the same columns: options beside the other axes, and no list.

    An option that is called as a column of results, as ``samples``, stands in ``option_samples``.
    """
    axes = [axis for axis in document.axes if axis not in _OWN_AXES]
    taken = {*CellEntry.model_fields, "low", "high"}
    columns = {axis: f"option_{axis}" if axis in taken else axis for axis in axes}
    found = []
    for cell in document.cells:
        plain = cell.model_dump(mode="json", exclude={"options", "failing", "interval"})
        low, high = cell.interval or (None, None)
        options = {columns[axis]: cell.options.get(axis, "") for axis in axes}
        found.append({**plain, "failing": " ".join(cell.failing), "low": low, "high": high, **options})
    return found


def table_csv(document: SweepDocument) -> str:
    """The table as CSV; text that a spreadsheet would take for a formula is quoted."""
    stream = io.StringIO()
    found = rows(document)
    writer = csv.DictWriter(stream, list(found[0]), lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({k: harmless_cell(v) if isinstance(v, str) else v for k, v in row.items()})
    return stream.getvalue()


def table_parquet(document: SweepDocument) -> bytes | None:
    """The table as Parquet, or ``None`` where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(document)), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _write_cell(folder: Path, files: Mapping[str, bytes]) -> None:
    """The report of a cell, in place of an older one in that folder."""
    with told(folder):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_files(folder, files)
    _remove_reports(folder, set(files))


def _empty_others(out: Path, written: set[str]) -> None:
    """Remove reports of cells of an earlier sweep: the page no longer leads to them, and they show samples."""
    folder = out / CELLS
    for place in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        if place.name.isdecimal() and not place.is_symlink() and f"{CELLS}/{place.name}" not in written:
            _remove_reports(place, set())
            with suppress(OSError):  # something else lies in it
                os.rmdir(place)


def _remove_reports(folder: Path, kept: set[str]) -> None:
    from leakaudit.report.formats.registry import available

    for kind in available().values():
        if kind.file not in kept and is_ours(folder / kind.file):
            (folder / kind.file).unlink(missing_ok=True)
