"""The matrix of a sweep: rows and columns by its axes, seeds pooled, shaded by how much leaks, how near, and how long.

Every cell has its number in it, so the shade is never the only thing that tells; it links to the full reports behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leakaudit.document.status import CellStatus
from leakaudit.document.sweep import CellEntry, SweepDocument
from leakaudit.domains.specs import ALL, Spec
from leakaudit.report.wording import MISSING, clip, fixed, number, seconds
from leakaudit.scoring.interval import leak_interval

SHADES = 5
"""Shades of a heat map beside the plain one."""
POOLED = "seed"
MOST = 2000
"""Cells of a matrix that a page shows at most; larger sweeps are read from the table."""


@dataclass(frozen=True)
class Link:
    """To a full report."""

    text: str
    href: str


@dataclass(frozen=True)
class Field:
    """One cell of a matrix: its number, what stands under it, its shade, and the reports behind."""

    text: str
    remark: str = ""
    shade: int = 0
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Heat:
    """One matrix."""

    id: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Field, ...]], ...]


@dataclass(frozen=True)
class Grouped:
    """Cells of a sweep by row and column, those with different seeds together."""

    column_axis: str
    row_axes: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    groups: Mapping[tuple[str, str], list[CellEntry]] = field(default_factory=dict)


def value_of(cell: CellEntry, axis: str) -> str:
    """What a cell has on an axis."""
    own = {"model": cell.model, "mode": cell.mode, "defence": cell.defence, "seed": str(cell.seed)}
    return own.get(axis, cell.options.get(axis, MISSING))


def grouped(document: SweepDocument) -> Grouped:
    """The cells by the axes that vary; the defence gives the columns where it does, otherwise the last of them."""
    varying = [axis for axis, values in document.axes.items() if len(values) > 1 and axis != POOLED]
    column = "defence" if "defence" in varying else (varying[-1] if len(varying) > 1 else "defence")
    row_axes = tuple(axis for axis in varying if axis != column) or ("model",)
    groups: dict[tuple[str, str], list[CellEntry]] = {}
    for cell in document.cells:
        row = ", ".join(value_of(cell, axis) for axis in row_axes)
        groups.setdefault((row, value_of(cell, column)), []).append(cell)
    rows, columns = (tuple(dict.fromkeys(key[place] for key in groups)) for place in (0, 1))
    return Grouped(column, row_axes, rows, columns, groups)


def heat_maps(document: SweepDocument) -> list[Heat]:
    """Leaked share, closest reconstruction and time; none where the sweep is too large for a page."""
    found = grouped(document)
    if len(found.rows) * len(found.columns) > MOST:
        return []
    pooled = " Seeds are pooled." if len(document.axes.get(POOLED, [])) > 1 else ""
    return [
        _heat(found, "leaked", "Samples that leaked", f"Share, with its 95 % interval.{pooled}", _leaked(found)),
        _heat(found, "closest", "Closest reconstruction", f"By the domain's first metric.{pooled}", _closest(found)),
        _heat(found, "time", "Time", f"Of one audit, the longest where there are several.{pooled}", _time(found)),
    ]


def _heat(found: Grouped, name: str, title: str, caption: str, fields: Mapping[tuple[str, str], Field]) -> Heat:
    def row_of(row: str) -> tuple[Field, ...]:
        return tuple(fields.get((row, column), Field(MISSING)) for column in found.columns)

    rows = tuple((row, row_of(row)) for row in found.rows)
    return Heat(f"heat-{name}", title, caption, found.columns, rows)


def _links(cells: Sequence[CellEntry]) -> tuple[Link, ...]:
    several = len(cells) > 1
    there = [cell for cell in cells if cell.report]
    return tuple(Link(f"seed {c.seed}" if several else "report", f"{c.report}/report.html") for c in there)


def _fields(
    found: Grouped, told: Callable[[list[CellEntry]], tuple[str, str, float | None]]
) -> dict[tuple[str, str], Field]:
    """The fields of a matrix, shaded from the least value to the largest.

    Args:
        found: The cells.
        told: Number and remark as text, and what the shade goes by, from the cells with a report.
    """
    measured = {key: [c for c in cells if c.status is CellStatus.DONE] for key, cells in found.groups.items()}
    texts = {key: told(cells) for key, cells in measured.items() if cells}
    shades = _shades({key: value for key, (_, _, value) in texts.items()})
    fields = {}
    for key, cells in found.groups.items():
        text, remark, _ = texts.get(key, (str(cells[0].status), "", None))
        missing = len(cells) - len(measured[key])
        remark = f"{remark}; {missing} of {len(cells)} without a report" if missing and key in texts else remark
        fields[key] = Field(text, remark, shades.get(key, 0), _links(cells))
    return fields


def _shades(values: Mapping[tuple[str, str], float | None]) -> dict[tuple[str, str], int]:
    """Shades from 0 to the darkest, linear between the least and the largest finite value."""
    finite = [value for value in values.values() if value is not None and abs(value) != float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return {key: _shade(value, low, high) for key, value in values.items() if value is not None}


def _shade(value: float, low: float, high: float) -> int:
    if value in (float("inf"), float("-inf")):
        return SHADES if value > 0 else 0
    return 0 if high == low else round(SHADES * (value - low) / (high - low))


def _leaked(found: Grouped) -> dict[tuple[str, str], Field]:
    fields = _fields(found, lambda cells: (share_text(cells), interval_text(cells), share(cells)))
    done = {key: [c for c in cells if c.status is CellStatus.DONE] for key, cells in found.groups.items()}
    shades = {key: round(SHADES * (share(cells) or 0.0)) for key, cells in done.items()}  # of 0 to 1, whatever is there
    return {key: replace(one, shade=shades[key]) for key, one in fields.items()}


def counts(cells: Iterable[CellEntry]) -> tuple[int, int]:
    """Samples that leaked, and samples that were attacked."""
    found = list(cells)
    return sum(cell.leaked or 0 for cell in found), sum(cell.samples or 0 for cell in found)


def share(cells: Iterable[CellEntry]) -> float | None:
    """Share of samples that leaked; ``None`` where none was attacked."""
    leaked, samples = counts(cells)
    return leaked / samples if samples else None


def interval(cells: Iterable[CellEntry]) -> tuple[float, float] | None:
    """Clopper–Pearson interval of that share, however few samples there are."""
    return leak_interval(*counts(cells), fewest=1)


def share_text(cells: Sequence[CellEntry]) -> str:
    """``3 of 8``."""
    leaked, samples = counts(cells)
    return f"{leaked} of {samples}" if samples else MISSING


def interval_text(cells: Sequence[CellEntry]) -> str:
    """``12 to 88 %``."""
    found = interval(cells)
    return "" if found is None else f"{found[0] * 100:.0f} to {found[1] * 100:.0f} %"


def _closest(found: Grouped) -> dict[tuple[str, str], Field]:
    def told(cells: list[CellEntry]) -> tuple[str, str, float | None]:
        best = max((c for c in cells if c.told), key=nearness, default=None)
        if best is None:
            return MISSING, "", None
        return closest_text(best), clip(best.attack, 40), nearness(best)

    return _fields(found, told)


def nearness(cell: CellEntry) -> float:
    """The closest reconstruction as a number that grows with what is recovered; an exact one has the largest."""
    if cell.closest is None:
        return float("inf") if cell.told else float("-inf")
    spec = _spec(cell)
    return cell.closest if spec is None or spec.higher_is_better else -cell.closest


def closest_text(cell: CellEntry) -> str:
    """With its unit, or in words where it is exact."""
    if cell.closest is None:
        return clip(cell.told, 60) if cell.told else MISSING
    spec = _spec(cell)
    if spec is None:
        return f"{cell.metric} {number(cell.closest)}"
    scaled = f"{cell.closest:.0%}" if spec.style == "percent" else fixed(cell.closest, spec.digits)
    return f"{scaled} {spec.unit}".strip()


def _spec(cell: CellEntry) -> Spec | None:
    return ALL.get(cell.metric)


def _time(found: Grouped) -> dict[tuple[str, str], Field]:
    def told(cells: list[CellEntry]) -> tuple[str, str, float | None]:
        longest = max(cell.seconds for cell in cells)
        return seconds(longest), "", longest

    return _fields(found, told)
