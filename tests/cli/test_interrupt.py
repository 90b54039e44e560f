"""Ctrl-C, SIGTERM and failures: what was measured is written and says so, and an older report is never lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from leakaudit.cli.progress import TerminalObserver
from tests.cli.build import leakaudit
from tests.conftest import smooth_images
from tests.report.builder import build

SLOW = (
    *("-f", "json", "-f", "html", "--preset", "quick", "--attack", "ig", "--set", "ig.iterations=1000000", "-v"),
    *("--set", "ig.search=false", "--set", "ig.tolerance=0"),
)
FORMATS = ("json", "html", "sarif", "junit")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a complete report of an earlier audit."""
    build(victims=1, runs=1).save(tmp_path / "out", FORMATS)
    return tmp_path / "out"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def signalled(
    monkeypatch: pytest.MonkeyPatch, command: str, files: tuple[Path, Path], out: Path, at: str, number: int, *more: str
) -> tuple[int, str]:
    """Run here, with a signal to this process at a stage; exit code and what was printed."""
    honest = TerminalObserver.stage

    def stage(self: TerminalObserver, message: str) -> None:
        honest(self, message)
        if at in message:
            signal.raise_signal(number)

    monkeypatch.setattr(TerminalObserver, "stage", stage)
    code, printed, err = leakaudit(command, files[0], "--batch", files[1], "--out", out, *SLOW, *more)
    return code, printed + err


@pytest.mark.parametrize(
    ("at", "number"),
    [("loading the model", signal.SIGINT), ("rank analysis", signal.SIGTERM), ("client's updates", signal.SIGINT)],
)
def test_an_interrupt_before_any_attack_leaves_rank_analysis_and_labels(
    model: Path, batch: Path, out: Path, at: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(out)
    code, text = signalled(monkeypatch, "scan", (model, batch), out, at, number, "--victims", "2")
    assert code == 130, text
    assert content(out) == before
    partial = json.loads((out / "partial" / "report.json").read_text())
    assert partial["rank"]["layers"]
    assert partial["batch"]["victims"] == 1, "one victim's labels are enough"
    assert {attack["status"] for attack in partial["attacks"]} == {"not_run"}
    assert "interrupted" in partial["partial"]


def test_an_interrupt_before_any_setting_was_measured_writes_nothing(
    model: Path, batch: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(out)
    code, text = signalled(monkeypatch, "defend", (model, batch), out, "loading the model", signal.SIGTERM)
    assert code == 130, text
    assert "no report was written" in text
    assert content(out) == before
    assert sorted(path.name for path in out.iterdir()) == sorted(before)


def test_so_it_does_where_several_variants_were_asked_for(
    model: Path, batch: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(out)
    code, text = signalled(monkeypatch, "scan", (model, batch), out, "variant 1", signal.SIGINT, "--mode", "both")
    assert code == 130, text
    assert content(out) == before
    assert json.loads((out / "partial" / "report.json").read_text())["rank"]["layers"]


def test_what_was_measured_goes_beside_a_complete_report(model: Path, batch: Path, out: Path) -> None:
    before = content(out)
    words = [sys.executable, "-m", "leakaudit", "scan", str(model), "--batch", str(batch), "--out", str(out), *SLOW]
    process = subprocess.Popen(
        [*words, "--set", "ig.execution=eager"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any("begins" in line for line in process.stderr)
    time.sleep(3)  # so that the attack has taken steps
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate(timeout=120)
    code, text = process.returncode, printed + err
    assert code == 130, text
    assert content(out) == before
    partial = json.loads((out / "partial" / "report.json").read_text())
    assert "interrupted" in partial["partial"]
    assert partial["attacks"][0]["results"]
    assert "Partial report" in (out / "partial" / "report.html").read_text()
    assert f"Report: {out / 'partial' / 'report.json'}" in text


def test_a_failed_audit_loses_nothing(model: Path, out: Path, tmp_path: Path) -> None:
    before = content(out)
    np.savez(tmp_path / "other.npz", x=smooth_images(3), y=np.array([0, 1, 99]))
    formats = [word for name in FORMATS for word in ("-f", name)]
    code, _, err = leakaudit("scan", model, "-b", tmp_path / "other.npz", "-o", out, *formats, "--evidence", "none")
    assert code == 3
    assert content(out) == before
    assert {path.name for path in (out / "partial").iterdir()} == {".gitignore", "report.sarif", "report.junit.xml"}
    assert f"{out / 'partial' / 'report.sarif'}" in err
    assert "99" not in (out / "partial" / "report.junit.xml").read_text()


def test_render_does_not_hide_beside_its_source(tmp_path: Path) -> None:
    build(victims=1, runs=1).save(tmp_path, ("json",))
    words = ("render", tmp_path / "report.json", "-o", tmp_path, "--fail-on", "never", "--evidence", "none")
    code, _, err = leakaudit(*words, "-f", "html")
    assert code == 2
    assert "choose another folder" in err
    assert {path.name for path in tmp_path.iterdir()} == {".gitignore", "report.json"}
    code, _, err = leakaudit(*words, "-f", "html", "-f", "json")
    assert code == 0, err
    assert json.loads((tmp_path / "report.json").read_text())["evidence"] == "none"
