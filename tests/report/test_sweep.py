"""The page of a sweep: matrices, curves and a table that say the same, links to all reports, and no trust in names."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from leakaudit.document.schema import Tool
from leakaudit.document.status import CellStatus, VerdictStatus
from leakaudit.document.sweep import CellEntry, SweepDocument
from leakaudit.errors import UsageError
from leakaudit.report.sweep import build, headline, render_sweep
from leakaudit.report.views.heat import SHADES, grouped, heat_maps, nearness
from leakaudit.report.views.tradeoff import curves, places


def cell(number: int = 1, **changes: Any) -> CellEntry:
    facts: dict[str, Any] = {
        "number": number, "model": "a.onnx", "mode": "eval", "defence": "none", "seed": 0, "status": CellStatus.DONE,
        "verdict": VerdictStatus.LEAKS_MEASURED, "severity": "high", "leaked": 2, "samples": 4, "closest": 21.5,
        "metric": "psnr", "told": "21.5 dB PSNR", "attack": "ig", "seconds": 6.0, "report": f"cells/{number:04d}",
        "key": f"{number:064x}",
    }  # fmt: skip
    return CellEntry(**{**facts, **changes})


def failed(number: int, **changes: Any) -> CellEntry:
    none: dict[str, Any] = dict.fromkeys(("verdict", "severity", "leaked", "samples", "closest", "report"))
    none |= {"status": CellStatus.FAILED, "reason": "no model", "metric": "", "told": ""}
    return cell(number, **{**none, **changes})


def sweep(*cells: CellEntry, **changes: Any) -> SweepDocument:
    axes = {
        axis: list(dict.fromkeys(str(getattr(c, axis)) for c in cells)) for axis in ("model", "mode", "defence", "seed")
    }
    options = {axis: list(dict.fromkeys(c.options[axis] for c in cells)) for axis in cells[0].options}
    facts: dict[str, Any] = {
        "tool": Tool(version="1"), "created": "2026-01-02", "name": "sweep.toml", "runner": "here", "workers": 1,
        "threads": 1, "axes": {**axes, **options}, "cells": list(cells),
    }  # fmt: skip
    return SweepDocument(**{**facts, **changes})


GRID = sweep(
    *(
        cell(
            4 * m + 2 * d + s + 1, model=f"{model}.onnx", defence=defence, seed=s, leaked=leaked, closest=20.0 + leaked
        )
        for m, model in enumerate("ab")
        for d, (defence, leaked) in enumerate((("none", 4), ("prune=0.9", m)))
        for s in (0, 1)
    )
)


def test_rows_columns_and_pooled_seeds() -> None:
    found = grouped(GRID)
    assert (found.column_axis, found.row_axes, found.rows) == ("defence", ("model",), ("a.onnx", "b.onnx"))
    assert found.columns == ("none", "prune=0.9")
    assert {len(cells) for cells in found.groups.values()} == {2}


def test_the_share_that_leaks_is_shaded_on_the_whole_scale() -> None:
    leaked, closest, time = heat_maps(GRID)
    assert [[one.text for one in fields] for _, fields in leaked.rows] == [["8 of 8", "0 of 8"], ["8 of 8", "2 of 8"]]
    assert [[one.shade for one in fields] for _, fields in leaked.rows] == [[SHADES, 0], [SHADES, 1]]
    assert leaked.rows[0][1][0].remark == "63 to 100 %"
    assert [[one.text for one in fields] for _, fields in closest.rows] == [
        ["24.0 dB", "20.0 dB"],
        ["24.0 dB", "21.0 dB"],
    ]
    assert {one.text for _, fields in time.rows for one in fields} == {"6.0 s"}
    links = leaked.rows[1][1][1].links
    assert [(link.text, link.href) for link in links] == [
        ("seed 0", "cells/0007/report.html"), ("seed 1", "cells/0008/report.html")
    ]  # fmt: skip


def test_an_exact_reconstruction_is_the_nearest_and_none_the_farthest() -> None:
    exact, good, nothing = cell(closest=None, told="exact"), cell(closest=40.0), cell(closest=None, told="")
    assert nearness(exact) > nearness(good) > nearness(nothing)
    cells = (exact, cell(2, defence="sign", closest=20.0), cell(3, defence="prune=0.9", closest=40.0))
    (row,) = heat_maps(sweep(*cells))[1].rows
    assert [one.shade for one in row[1]] == [SHADES, 0, SHADES]
    assert row[1][0].text == "exact"


def test_a_cell_without_a_report_says_what_became_of_it() -> None:
    document = sweep(
        cell(), failed(2, defence="sign"), cell(3, defence="prune=0.5"), failed(4, defence="prune=0.5", seed=1)
    )
    leaked = heat_maps(document)[0].rows[0][1]
    assert [one.text for one in leaked] == ["2 of 4", "failed", "2 of 4"]
    assert "1 of 2 without a report" in leaked[2].remark
    page = render_sweep(document)
    assert "no model" in page
    assert headline(document) == "Samples leak in 2 of 2 audited cells; 2 without a report"
    assert headline(sweep(failed(1))) == "None of 1 cell has a report"


def test_curves_run_along_numbers_to_scale_and_along_names_by_place() -> None:
    assert places(["1", "8", "64"]) == ([1.0, 8.0, 64.0], True)
    assert places(["none", "prune=0.9"]) == ([0.0, 1.0], False)
    cells = [cell(n, options={"samples": size}, leaked=4 - n) for n, size in enumerate(("1", "8", "64"), 1)]
    (figure,) = curves(sweep(*cells))
    assert "Leakage along samples" in figure.caption
    assert "1 75%; 8 50%; 64 25%" in figure.svg
    assert len(curves(GRID)) == 1, "no curve along models or seeds"


def test_the_page_links_to_every_report_and_says_what_the_document_says() -> None:
    page = render_sweep(GRID)
    for entry in GRID.cells:
        assert f'href="{entry.report}/report.html"' in page
    assert page.count("<tr>") >= len(GRID.cells)
    assert "style=" not in page
    assert re.search(r"default-src 'none'.*script-src 'sha256-", unescape(page))
    assert '<meta name="generator" content="leakaudit ' in page


def test_names_are_text() -> None:
    evil = "<script>alert(1)</script>\x1b]0;x"
    document = sweep(cell(model=evil), cell(2, model=evil, defence=evil), failed(3, model="c", reason=evil), name=evil)
    page = render_sweep(document)
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_a_large_sweep_shows_what_fits_and_says_so() -> None:
    cells = [cell(n, model=f"{n}.onnx", seed=0) for n in range(1, 2102)]
    view = build(sweep(*cells))
    assert len(view.table.rows) == 2000
    assert view.heats == []
    assert "sweep.csv" in view.left_out


def test_a_template_of_the_user_replaces_the_page(tmp_path: Path) -> None:
    (tmp_path / "sweep.html.j2").write_text("{{ sweep.name }}: {{ view.headline }}")
    assert render_sweep(GRID, tmp_path) == "sweep.toml: Samples leak in 7 of 8 audited cells".replace("7", "6")
    with pytest.raises(UsageError, match="not a folder"):
        render_sweep(GRID, tmp_path / "absent")
