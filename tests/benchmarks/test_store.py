"""Stored measurements: what code a row is of, and a table of speeds that grows and says what it lacks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("store")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which the script would set for good
    return importlib.import_module("speed")


def test_a_row_keeps_its_code_and_one_without_gets_none(store: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    old = {"case": "a", "victim": 0, "psnr": 1.0, "seconds": 1.0, "match": 0.1, "date": "2026-01-02", "torch": "2"}
    path.write_text(json.dumps(old) + "\n", encoding="utf-8")
    store.Store(path).add(store.Measurement("b", 0, 2.0, 1.0, 0.1))
    found = store.Store(path)
    assert [found.get(case, 0).code for case in "ab"] == ["", store.code_version()]
    sentence = store.versions(found, {"row a": "a", "row b": "b"})
    assert "not recorded (2026-01-02): " in sentence
    assert f"`{store.code_version()}` (" in sentence
    assert "all rows" not in sentence
    alone = store.versions(found, {"row b": "b", "row c": "c"})
    assert alone.endswith(": all rows.")
    assert store.versions(found, {"row c": "c"}) == ""


def test_the_code_version_is_of_the_sources(store: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.leakaudit, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "attacks").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "attacks" / "ig.py").write_text("1")
    digest = store.code_version.__wrapped__
    before = digest()
    (tmp_path / "report" / "html.py").write_text("1")
    assert digest() == before
    (tmp_path / "attacks" / "ig.py").write_text("2")
    assert digest() != before


def test_the_table_of_speeds_grows_and_says_what_it_lacks(speed: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "speed.md"
    cells = ["ViT-small/1/1/1", "LeNet/1/16/1"]
    table = speed.Table({cell: "| " + " | ".join(cell.split("/")) + " | 1 |" for cell in cells})
    speed.write(table, out, "First run.")
    again = speed.Table.read(out)
    again.rows["LeNet/1/16/1"] = "| LeNet | 1 | 16 | 1 | 2 |"
    speed.write(again, out, "Second run.")
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[2:4] == ["| LeNet | 1 | 16 | 1 | 2 |", "| ViT-small | 1 | 1 | 1 | 1 |"]
    assert [line for line in lines if line.endswith("run.")] == ["First run.", "Second run."]
    (lacking,) = (line for line in lines if line.startswith("Not measured: "))
    assert "LeNet/1/1/1, " in lacking
    assert all(cell not in lacking for cell in (*cells, "MLP"))
    assert lacking.count("/") == 3 * (len(speed.GRID) - len(cells) + 1)


def test_the_folders_that_decide_are_there(store: ModuleType) -> None:
    package = Path(store.leakaudit.__file__).parent
    assert all((package / folder / "__init__.py").is_file() for folder in store.SOURCES)
