"""The page of a sweep: what leaks where, as matrices, curves and a table whose rows lead to the full reports.

It is made like that of a report (`leakaudit.report.formats.html`): one file, no JavaScript needed, nothing loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from leakaudit.document.counting import count
from leakaudit.document.status import CellStatus
from leakaudit.document.sweep import CellEntry, SweepDocument
from leakaudit.report.formats.html import content_policy, make_environment, source_of
from leakaudit.report.views.cells import Cell, Table
from leakaudit.report.views.figures import Figure
from leakaudit.report.views.heat import MOST, Heat, closest_text, heat_maps, value_of
from leakaudit.report.views.tradeoff import curves
from leakaudit.report.wording import MISSING, clip, number, seconds

TEMPLATE = "sweep.html.j2"
STYLES = ("report.css", "sweep.css")


@dataclass(frozen=True)
class View:
    """What the page shows."""

    headline: str
    sentence: str
    tiles: tuple[tuple[str, str], ...]
    heats: Sequence[Heat]
    curves: Sequence[Figure]
    table: Table
    left_out: str
    severity: str


def render_sweep(document: SweepDocument, template_dir: Path | None = None) -> str:
    """The page.

    Args:
        document: The sweep.
        template_dir: Folder whose templates override the bundled ones.

    Raises:
        UsageError: ``template_dir`` is no folder, or a template in it is wrong.
    """
    environment = make_environment(template_dir)
    style = Markup("\n").join(Markup(source_of(environment, name, "</style")) for name in STYLES)
    script = Markup(source_of(environment, "report.js", "</script"))
    return environment.get_template(TEMPLATE).render(
        sweep=document, view=build(document), style=style, script=script, policy=content_policy(style, script)
    )


def build(document: SweepDocument) -> View:
    """What the page shows of a sweep."""
    cells = document.cells
    shown = cells[:MOST]
    heats = heat_maps(document)
    parts = [] if heats else ["the matrices have more fields than a page can show"]
    parts += [f"the first {number(MOST)} of {number(len(cells))} cells are listed"] if len(shown) < len(cells) else []
    return View(
        headline=headline(document),
        sentence=document.partial,
        tiles=_tiles(document),
        heats=heats,
        curves=curves(document),
        table=_table(document, shown),
        left_out=f"{'; '.join(parts).capitalize()}: sweep.csv and sweep.json hold all." if parts else "",
        severity=_worst(cells),
    )


def headline(document: SweepDocument) -> str:
    """The sweep in one sentence."""
    done = [cell for cell in document.cells if cell.status is CellStatus.DONE]
    leaking = sum(bool(cell.leaked) for cell in done)
    if not done:
        return f"None of {count(len(document.cells), 'cell')} has a report"
    told = f"Samples leak in {number(leaking)} of {count(len(done), 'audited cell')}"
    without = len(document.cells) - len(done)
    return f"{told}; {number(without)} without a report" if without else told


def _worst(cells: Sequence[CellEntry]) -> str:
    order = ("critical", "high", "medium", "low", "none")
    return min((cell.severity or "none" for cell in cells), key=order.index, default="none")


def _tiles(document: SweepDocument) -> tuple[tuple[str, str], ...]:
    cells = document.cells
    failed = sum(cell.status.unaudited for cell in cells)
    return (
        ("cells", number(len(cells))),
        ("audited", number(document.count(CellStatus.DONE))),
        ("could not be audited", number(failed)),
        ("fail the policy", number(sum(bool(cell.failing) for cell in cells))),
        ("time of all audits", seconds(sum(cell.seconds for cell in cells))),
    )


def _table(document: SweepDocument, cells: Sequence[CellEntry]) -> Table:
    axes = tuple(document.axes)
    columns = (
        ("cell", True),
        *((axis.replace("_", " "), False) for axis in axes),
        *(("verdict", False), ("leaked", True), ("closest", True), ("time", True)),
    )
    table = Table("cells", f"{count(len(cells), 'cell')}, each with its full report", columns)
    for cell in cells:
        href = f"{cell.report}/report.html" if cell.report else ""
        row: list[Cell | str] = [Cell(str(cell.number), str(cell.number), href=href)]
        row += [clip(value_of(cell, axis), 80) for axis in axes]
        table.add([*row, *_outcome(table, cell)])
    return table


def _outcome(table: Table, cell: CellEntry) -> list[Cell]:
    """What came of a cell: its verdict and numbers, or why there are none."""
    if cell.status is not CellStatus.DONE:
        note = table.note(cell.reason) if cell.reason else None
        return [Cell(str(cell.status), "", note, "alert"), Cell(MISSING), Cell(MISSING), _time(cell)]
    leaks = cell.verdict is not None and cell.verdict.leaks
    samples = f"{cell.leaked} of {cell.samples}"
    key = "" if cell.closest is None else repr(cell.closest)
    return [
        Cell(str(cell.verdict), mark="leak" if leaks else ""),
        Cell(samples, repr((cell.leaked or 0) / max(1, cell.samples or 0))),
        Cell(closest_text(cell), key),
        _time(cell),
    ]


def _time(cell: CellEntry) -> Cell:
    return Cell(seconds(cell.seconds), repr(cell.seconds))
