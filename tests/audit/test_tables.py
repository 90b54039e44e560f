"""A table audited end to end by the command line: what was read, what the report shows, and what it leaves out."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import leakaudit
from leakaudit.api import defend
from leakaudit.attacks.linear import LinearReader
from leakaudit.attacks.linear_program import LinearProgram
from leakaudit.audit.contradiction import without_contradicted
from leakaudit.audit.memory import Memory
from leakaudit.audit.scene import Run
from leakaudit.audit.victim import Knowledge, attack_victim, observe_victim
from leakaudit.document.redact import redact
from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import SilentMonitor
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.scoring.table import TableMeasure
from tests.cli.build import export
from tests.cli.build import leakaudit as command
from tests.tables import SIZE, TABLE, module, private, table_target, write_csv, write_npz, write_schema


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, the same rows in two forms, and their schema."""
    folder = tmp_path_factory.mktemp("tables")
    export(module(60), folder / "m.onnx", (SIZE,))
    write_npz(folder / "rows.npz", 120)
    write_csv(folder / "rows.csv", 120)
    write_schema(folder / "schema.toml")
    return folder


TABLEAK = ("--attack", "tableak", "--set", "tableak.iterations=40", "--set", "tableak.restarts=2")


def scanned(folder: Path, out: Path, *words: Any) -> Report:
    fixed = ("--attack", "lp", "--preset", "quick")
    code, _, err = command(
        "scan", folder / "m.onnx", *words, *fixed, "--victims", 2, "--batch-size", 4, "--controls", "none",
        "--out", out, "--format", "json", "--evidence", "full",
    )  # fmt: skip
    assert (code, err.count("Error")) == (1, 0), err
    return Report.load(out / "report.json")


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    """The same as a page."""
    return render_html(report)


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("out")
    return scanned(folder, out, "--batch", folder / "rows.npz", "--schema", folder / "schema.toml", *TABLEAK)


def test_every_row_is_read_and_certified(report: Report) -> None:
    assert report.verdict.status == "LEAKS (certified)"
    assert (report.target.domain, report.target.columns) == ("table", 6)
    lp = next(attack for attack in report.attacks if attack.name == "lp")
    assert [result.certified for result in lp.results] == [True, True]
    for sample in (s for result in lp.results for s in result.samples):
        assert sample.metrics["cell_accuracy"] == 1
        assert sample.metrics["row_exact"] == 1
        assert set(sample.metric_floors) == {"uniform", "modes", "marginals", "rows"}
        assert sample.table is not None
        assert sample.table.right == 6
        assert sample.table.names == ["age", "sex", "work", "hours", "place", "gain"]
        assert sample.table.original[4] == sample.table.recovered[4]
        assert sample.table.wrong == []


def test_tableak_says_how_sure_it_is(report: Report) -> None:
    tableak = next(attack for attack in report.attacks if attack.name == "tableak")
    (first, *_) = tableak.results[0].samples
    assert first.table is not None
    assert len(first.table.confidence) == 6
    assert all(0 <= sure <= 1 for sure in first.table.confidence)


def test_a_csv_says_the_same_as_the_encoded_rows(folder: Path, report: Report, tmp_path: Path) -> None:
    other = scanned(folder, tmp_path, "--batch", folder / "rows.csv", "--schema", folder / "schema.toml")
    one, two = (next(a for a in r.attacks if a.name == "lp").results[0].samples for r in (report, other))
    assert {s.index for s in one} == {s.index for s in two}
    assert other.verdict.status == report.verdict.status


def test_the_report_shows_rows_beside_rows(report: Report, page: str) -> None:
    assert "town " in page
    assert "Whole row right" in page
    assert "rows of 6 columns, 22 numbers" in page
    assert "100% of the cells right, above the" in page
    assert "rows whole; mean error of age 0" in page
    columns = next(csv.reader(io.StringIO(render_csv(report))))
    assert {"cell_accuracy", "row_exact", "rows_cell_accuracy"} <= set(columns)


def test_below_full_evidence_no_cell_is_left(report: Report, page: str) -> None:
    shown = redact(report, "blurred")
    left = render_html(shown)
    for word in ("town ", "other</span>", "hours"):
        assert word in page
        assert word not in shown.model_dump_json() + left
    rows = [s.table for a in shown.attacks for r in a.results for s in r.samples if s.table is not None]
    assert rows
    assert all(row.original == row.recovered == row.names == [] and row.columns == 6 for row in rows)
    assert "The cells are left out of this report." in left


def test_without_a_schema_what_was_guessed_is_said(folder: Path, tmp_path: Path) -> None:
    code, _, err = command(
        "scan", folder / "m.onnx", "--batch", folder / "rows.npz", "--attack", "lp", "--controls", "none",
        "--victims", 1, "--out", tmp_path, "--format", "json",
    )  # fmt: skip
    assert code == 1
    assert "the columns were guessed as 3 numbers and 3 categories in 19 entries" in " ".join(err.split())


def test_a_schema_for_a_model_of_pictures_is_refused(folder: Path, model: Path, batch: Path) -> None:
    code, _, err = command("scan", model, "--batch", batch, "--schema", folder / "schema.toml")
    assert code == 2
    assert "--schema is for tables, the model takes real-valued inputs such as pixels" in " ".join(err.split())


def test_from_python_with_controls() -> None:
    batch = private()
    report = leakaudit.scan(table_target(), batch, attacks=["lp", "linear"], batch_size=2, victims=2, preset="quick")
    assert report.verdict.status == "LEAKS (certified)"
    kinds = {control.kind: control.passed for control in report.controls}
    assert kinds["negative"] is True
    assert kinds["prior_only"] is True


def test_defend_takes_a_goal_in_cells() -> None:
    keywords: dict[str, Any] = {"victims": 1, "attacks": ["linear"], "grid": ["prune=0.9"], "steps": 2}
    report = defend(table_target(), private(), goal="cell_accuracy<0.99", **keywords)
    assert report.trials[0].metrics["cell_accuracy"] == 1
    with pytest.raises(UsageError, match="closer"):
        defend(table_target(), private(), goal="cell_accuracy>0.5", **keywords)


def test_what_is_near_to_a_row_of_another_update_is_not_leaked() -> None:
    """A twin differs in one cell: the exact readers prove that the update is of the twin."""
    file = private(60)
    twin = file.subset([0])
    twin.images[0, 0, 0, 0] += 12  # a year of birth
    target = table_target()
    victim = observe_victim(target, twin, FedSGD(1, target.mode), TABLE, Knowledge(), 0)
    mistaken = replace(victim, batch=file.subset([0]))
    measure = TableMeasure(file, TABLE)
    attacks = [LinearReader(LinearReader.presets["quick"]), LinearProgram(LinearProgram.presets["quick"])]
    runs = [
        Run(attack, [attack_victim(attack, target, mistaken, measure, 0, SilentMonitor(), Memory())])
        for attack in attacks
    ]
    assert all(run.claims for run in runs)
    assert any(outcome.certified for run in runs for outcome in run.outcomes)
    assert not any(run.claims for run in without_contradicted(runs))
    true = [Run(a, [attack_victim(a, target, victim, measure, 0, SilentMonitor(), Memory())]) for a in attacks]
    assert [run.claims for run in without_contradicted(true)] == [run.claims for run in true]
