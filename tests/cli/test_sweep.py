"""``leakaudit sweep``: real audits of small models, an estimate, exit codes, Ctrl-C, and going on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from leakaudit.cli.sweep_progress import SweepTerminal
from leakaudit.document.schema import Report
from tests.cli.build import CLASSES, export, leakaudit
from tests.conftest import model_and_batch, small_mlp

SWEEP = """
[scan]
batch = "batch.npz"
attack = ["linear"]
controls = "none"
victims = 1
mean = [0.5]
std = [0.25]

[grid]
model = ["net.onnx", "mlp.onnx"]
defence = ["", "prune=0.9"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model_and_batch(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(432, CLASSES)))
    export(small_mlp(CLASSES), tmp_path / "mlp.onnx")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swept(*words: object) -> tuple[int, str, str]:
    return leakaudit("sweep", "sweep.toml", "--runner", "here", "-f", "json", *words)


def table(folder: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads((folder / "leakaudit-sweep" / "sweep.json").read_text())["cells"]
    return cells


def test_a_grid_is_estimated_audited_and_not_audited_again(folder: Path) -> None:
    code, out, _ = swept("--dry-run")
    assert code == 0
    assert "   1  net.onnx, eval, none, 0" in out
    assert "4 cells, 0 of them in the store; 4 to run" in out
    assert not (folder / "leakaudit-sweep").exists()
    code, out, err = swept()
    assert code == 1, err
    assert "Report: leakaudit-sweep/sweep.json" in out
    cells = table(folder)
    assert [(c["model"], c["defence"], c["status"]) for c in cells] == [
        (model, defence, "done") for model in ("net.onnx", "mlp.onnx") for defence in ("none", "prune=0.9")
    ]
    assert cells[0]["verdict"].startswith("LEAKS")
    report = Report.load(folder / "leakaudit-sweep" / cells[1]["report"] / "report.json")
    assert (report.target.path, report.defences[0].name) == ("net.onnx", "prune")
    again, _, err = swept("--fail-on", "never")
    assert again in (0, 5)
    assert "4 cells, 4 of them before" in err
    assert "about" not in swept("--dry-run")[1], "nothing is left"


def test_what_cannot_be_audited_is_a_row_and_the_exit_code(folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "sweep.toml").write_text(
        SWEEP.split("[grid]")[0] + '[grid]\nmodel = ["net.onnx", "broken.onnx", "absent.onnx"]\nbatch-size = [1, 900]\n'
    )
    code, out, err = swept()
    assert code == 3
    cells = table(folder)
    assert [cell["status"] for cell in cells] == ["done", "failed", "failed", "failed", "failed", "failed"]
    assert "900" in cells[1]["reason"]
    assert "absent.onnx" in cells[4]["reason"]
    assert "Cell 3 (broken.onnx, eval, none): failed, " in err
    assert "Samples leak in 1 of 1 audited cell; 5 without a report" in out
    assert not any("Traceback" in text for text in (out, err))


def test_ctrl_c_leaves_a_table_of_what_is_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SweepTerminal.ended

    def ended(self: SweepTerminal, *told: Any) -> None:
        honest(self, *told)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SweepTerminal, "ended", ended)
    code, _, err = swept()
    assert code == 130
    assert "interrupted: 3 of 4 cells were not tried. The same command goes on from here." in err
    assert [cell["status"] for cell in table(folder)] == ["done", "not run", "not run", "not run"]
    monkeypatch.setattr(SweepTerminal, "ended", honest)
    code, _, err = swept("--quiet")
    assert (code, err) == (1, "")
    assert {cell["status"] for cell in table(folder)} == {"done"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cell-time", "3"), "--cell-time needs workers that can be ended"),
        (("--address", "auto"), "--address is of Ray, and the runner is here"),
        (("--workers", "3"), "workers is 3, in this process it is 1"),
        (("--store", "nowhere://x"), "the store nowhere://x cannot be reached"),
        (("--out", "sweep.toml"), "--out sweep.toml is a file, expected a folder"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(folder: Path, words: tuple[str, ...], message: str) -> None:
    code, _, err = swept(*words)
    assert code == 2
    assert err.splitlines()[0].startswith(f"Error: {message}")
    assert len(err.splitlines()) <= 2


def test_a_policy_that_was_found_judges_every_cell(folder: Path) -> None:
    (folder / "leakaudit.toml").write_text('fail-on = "never"\nbatch = "elsewhere.npz"\n')
    assert swept()[0] in (0, 5)
    (folder / "leakaudit.toml").write_text('template-dir = "templates"\n')
    assert swept()[0] == 2


@pytest.mark.slow
def test_processes_find_what_this_process_finds(folder: Path) -> None:
    times = {"seconds", "created", "self_sha256"}

    def documents(out: str) -> list[Any]:
        return [
            {key: value for key, value in json.loads(path.read_text()).items() if key not in times | {"attacks"}}
            for path in sorted((folder / out / "cells").rglob("report.json"))
        ]

    assert swept("-o", "one")[0] == 1
    words = (
        "sweep",
        "sweep.toml",
        "--runner",
        "processes",
        "--workers",
        "2",
        "--threads",
        "1",
        "-f",
        "json",
        "-o",
        "two",
    )
    assert leakaudit(*words)[0] == 1
    assert documents("one") == documents("two")
    assert len(documents("two")) == 4
