"""The files of a sweep: tables that agree, a folder for each cell, and nothing of an older sweep beside them."""

from __future__ import annotations

import csv
import io
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leakaudit.document.schema import HASH_KEY, Report, self_hash
from leakaudit.errors import UsageError
from leakaudit.sweeps.cells import Presentation, result_of
from leakaudit.sweeps.grid import plan_of
from leakaudit.sweeps.outcome import SweepReport, rows, table_csv, table_parquet
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.run import Running, run_sweep
from leakaudit.sweeps.store import Store
from tests.sweeps.build import PLAIN, audit, begun, requests


def swept(folder: Path, *names: str, shown: Presentation = PLAIN) -> SweepReport:
    return run_sweep(plan_of(requests(folder, names), folder), audit, Running(), shown, folder / "store")


def test_tables_and_reports_are_written_and_agree(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "a", "broken", "tight")
    written = sweep.save(tmp_path / "out")
    assert [path.name for path in written] == ["sweep.csv", "sweep.html", "sweep.json"]
    document = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert document.pop(HASH_KEY) == self_hash(document)
    assert [cell["status"] for cell in document["cells"]] == ["done", "failed", "done"]
    found = list(csv.DictReader(io.StringIO((tmp_path / "out" / "sweep.csv").read_text())))
    assert [(row["model"], row["leaked"]) for row in found] == [
        ("a.onnx", "1"),
        ("broken.onnx", ""),
        ("tight.onnx", "0"),
    ]
    for cell in sweep.cells:
        if cell.report:
            report = Report.load(tmp_path / "out" / cell.report / "report.json")
            assert report.verdict.code is cell.verdict
    assert sorted(path.name for path in (tmp_path / "out" / "cells").iterdir()) == ["0001", "0003"]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "out" / ".gitignore").read_text().splitlines()[-1] == "*"


def test_reports_of_an_earlier_sweep_go_and_other_files_stay(tmp_path: Path) -> None:
    swept(tmp_path, "a", "b", "c").save(tmp_path / "out")
    (tmp_path / "out" / "cells" / "0003" / "notes.txt").write_text("mine")
    swept(tmp_path, "a").save(tmp_path / "out")
    left = sorted(p.relative_to(tmp_path / "out" / "cells").as_posix() for p in (tmp_path / "out" / "cells").rglob("*"))
    assert left == ["0001", "0001/report.json", "0003", "0003/notes.txt"]


def test_formats_that_the_store_lacks_are_rendered_from_it(tmp_path: Path) -> None:
    swept(tmp_path, "a").save(tmp_path / "out")
    sweep = swept(tmp_path, "a", shown=replace(PLAIN, formats=("html", "csv")))
    sweep.save(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "cells" / "0001").iterdir())
    assert names == ["report.html", "scores.csv"], "no older format stays beside them"
    assert begun(tmp_path) == ["a-0"]


@pytest.mark.parametrize("evidence", ["blurred", "none"])
def test_below_full_evidence_no_cell_shows_a_sample(tmp_path: Path, evidence: Any) -> None:
    full = swept(tmp_path, "a").report(1)
    picture = full.attacks[0].results[0].samples[0].original_png
    hidden = swept(tmp_path, "a", shown=replace(PLAIN, evidence=evidence, formats=("json", "html")))
    hidden.save(tmp_path / "out")
    assert picture
    assert begun(tmp_path) == ["a-0", "a-0"], "a store that shows less cannot give more, and is not asked to"
    for path in [*(tmp_path / "out").rglob("*"), *(tmp_path / "store").rglob("*")]:
        assert not path.is_file() or path.suffix == ".zip" or picture not in path.read_text()


def test_an_option_that_is_called_like_a_result_has_a_column_of_its_own(tmp_path: Path) -> None:
    document = swept(tmp_path, "a").document
    document.axes["samples"], document.cells[0].options["samples"] = ["32"], "32"
    (row,) = rows(document)
    assert (row["samples"], row["option_samples"]) == (4, "32")


def test_a_result_holds_its_document_once_and_always(tmp_path: Path) -> None:
    written: list[str] = []

    def counted(self: Report) -> str:
        written.append(self.created)
        return honest(self)

    sweep = swept(tmp_path, "a", shown=replace(PLAIN, formats=("csv",)))
    assert sweep.report(1).target.name == "a"
    honest = Report.to_json
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "to_json", counted)
        result = result_of("k", sweep.report(1), PLAIN, 1.0)
    assert len(written) == 1
    assert list(result.files) == ["report.json"]


def test_what_a_store_holds_in_place_of_a_report_is_told(tmp_path: Path) -> None:
    sweep = swept(tmp_path, "a")
    store = Store(place_of(tmp_path / "store"))
    key = sweep.cells[0].key
    found = store.get(key)
    assert found is not None
    for content in (b"{}", b"[1]", b"no JSON"):
        store.put(replace(found, files={"report.json": content}))
        with pytest.raises(UsageError, match=f"the result {key[:12]} in the store holds no report"):
            sweep.report(1)
    store.close()


def test_text_in_the_table_is_no_formula(tmp_path: Path) -> None:
    document = swept(tmp_path, "a").document
    document.cells[0].model = '=HYPERLINK("x")'
    assert "'=HYPERLINK" in table_csv(document)


def test_without_pyarrow_there_is_no_parquet_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert table_parquet(swept(tmp_path, "a").document) is None


def test_a_parquet_table_has_a_row_a_cell(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    content = table_parquet(swept(tmp_path, "a", "tight").document)
    assert content is not None
    table = parquet.read_table(pyarrow.BufferReader(content))
    assert isinstance(parquet, types.ModuleType)
    assert table.column("model").to_pylist() == ["a.onnx", "tight.onnx"]
