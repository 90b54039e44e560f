"""Curves of a sweep: the share of samples that leak along one axis, with its interval, a line for each of the others.

An axis whose values are numbers is drawn to scale, any other one by its places. Nothing is drawn along an axis of files
or seeds, nor where there would be more lines than can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leakaudit.document.counting import count
from leakaudit.document.status import CellStatus
from leakaudit.document.sweep import CellEntry, SweepDocument
from leakaudit.report.views.figures import DASHES, SERIES, Figure, axis_label, canvas_of, figure_of
from leakaudit.report.views.heat import POOLED, interval, share, value_of
from leakaudit.report.wording import clip

MOST_LINES = len(SERIES)
SPREAD = 0.12
"""Distance of lines at one place, in places, so that their intervals do not hide each other."""
NOT_ALONG = ("model", POOLED)

Lines = Mapping[str, Mapping[str, Sequence[CellEntry]]]


def curves(document: SweepDocument) -> list[Figure]:
    """One figure for each axis that has several values and no more than a few lines."""
    found = []
    varying = [axis for axis, values in document.axes.items() if len(values) > 1 and axis != POOLED]
    for number, axis in enumerate(a for a in varying if a not in NOT_ALONG):
        others = [a for a in varying if a != axis]
        lines = _lines(document, axis, others)
        if 0 < len(lines) <= MOST_LINES:
            found.append(_figure(f"along-{number}", axis, document.axes[axis], lines))
    return found


def _lines(document: SweepDocument, axis: str, others: Sequence[str]) -> Lines:
    """Cells with a report by line, and on it by place."""
    lines: dict[str, dict[str, list[CellEntry]]] = {}
    for cell in document.cells:
        if cell.status is CellStatus.DONE and cell.samples:
            line = ", ".join(value_of(cell, other) for other in others) or "all"
            lines.setdefault(line, {}).setdefault(value_of(cell, axis), []).append(cell)
    return lines


def places(values: Sequence[str]) -> tuple[list[float], bool]:
    """Where the values of an axis lie, and whether that is to scale."""
    try:
        return [float(value) for value in values], True
    except ValueError:
        return [float(place) for place in range(len(values))], False


def _figure(identifier: str, axis: str, values: Sequence[str], lines: Lines) -> Figure:
    where, scaled = places(values)
    positions = dict(zip(values, where, strict=True))
    with canvas_of(4.7, 3.9) as (canvas, axes):
        for number, (name, cells) in enumerate(lines.items()):
            shift = 0.0 if scaled else SPREAD * (number - (len(lines) - 1) / 2)
            _draw(axes, number, name, {positions[v] + shift: cells[v] for v in values if v in cells})
        axes.set_ylim(-0.04, 1.04)
        axes.set_ylabel("share of samples that leaks")
        axes.set_xlabel(axis.replace("_", " "))
        if not scaled:
            axes.set_xticks(where, [axis_label(value, 16) for value in values], rotation=20, ha="right")
        if len(lines) > 1:
            canvas.legend(loc="outside upper center", ncols=2)
        title = f"Leakage along {axis.replace('_', ' ')}"
        caption = (
            f"{title}, {count(len(lines), 'line')}: samples of all seeds together; bars are 95 % intervals "
            "(Clopper–Pearson), which take the samples as independent."
        )
        return figure_of(canvas, identifier, title, _told(values, lines), caption)


def _draw(axes: Any, number: int, name: str, cells: Mapping[float, Sequence[CellEntry]]) -> None:
    """One line with the interval at each of its points."""
    points = sorted(cells)
    shares = [share(cells[x]) or 0.0 for x in points]
    ends = [interval(cells[x]) or (value, value) for x, value in zip(points, shares, strict=True)]
    below = [max(0.0, value - low) for value, (low, _) in zip(shares, ends, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(shares, ends, strict=True)]
    colour, dash = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
    axes.errorbar(
        *(points, shares),
        yerr=[below, above],
        color=colour,
        linestyle=dash,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2.5,
        label=axis_label(name, 34),
    )


def _told(values: Sequence[str], lines: Lines) -> str:
    """The figure in words, for those who cannot see it."""
    texts = []
    for name, cells in lines.items():
        points = "; ".join(f"{clip(v, 40)} {share(cells[v]) or 0.0:.0%}" for v in values if v in cells)
        texts.append(f"{clip(name, 80)}: {points}")
    return ". ".join(texts)
