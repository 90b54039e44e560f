"""The table of networks at real size: its rows go on where they were, and what is late or broken is said."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def real_size(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("real_size")


def test_the_page_tells_what_is_late_and_what_does_not_load(real_size: ModuleType) -> None:
    late = {"wall_s": 139.0, "budget_s": 120.0, "peak_mib": 5000, "verdict": "INCONCLUSIVE"}
    rows = [
        {"network": "a", "case": "legacy", "wall_s": 9.5, "peak_mib": 900, "error": ""},
        {"network": "a", "case": "pt2", "wall_s": 3.0, "error": "Error: it | breaks", "of": "the exporter"},
        {"network": "a", "case": "rank", "wall_s": 7.0, "peak_mib": 800, "risk": "high", "error": ""},
        {"network": "a", "case": "scan", **late},
        {"network": "b", "case": "legacy", "wall_s": 1.0, "peak_mib": 9, "error": ""},
    ]
    lines = real_size.page(rows).splitlines()
    assert lines[-2] == (
        "| a | 9.5 s |  | the exporter Error: it / breaks |  | 7.0 s, 800 MiB | high | 139.0 s of 120 (late) "
        "| 5000 MiB | INCONCLUSIVE |"
    )
    assert lines[-1].startswith("| b | 1.0 s |")


def test_what_has_a_row_is_not_run_again(
    real_size: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(words: list[str], limit: float, log: Path) -> object:
        ran.append(words)
        return real_size.Ended(0, 1.0, 1.0, 100.0, '{"rank": {"risk": "low", "score": 0.1}}')

    monkeypatch.setattr(real_size, "run", run)
    known = {("resnet18", form): {"error": "" if form == "pt2" else "Error: no"} for form in real_size.FORMS}
    rows = list(real_size.cases("resnet18", {**known, ("resnet18", "scan"): {}}, 60.0, 60.0, tmp_path))
    assert [(row["case"], row["form"], row["risk"]) for row in rows] == [("rank", "pt2", "low")]
    assert [words[1] for words in ran] == ["-c", "-m"], "exported again, since the file is gone, and ranked"


def test_a_case_is_measured_and_ended_at_its_limit(real_size: ModuleType, tmp_path: Path) -> None:
    done = real_size.run([sys.executable, "-c", "print(7); raise SystemExit(5)"], 30.0, tmp_path / "log")
    assert (done.code, done.text) == (5, "7\n")
    assert done.peak > 1
    hung = real_size.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.3, tmp_path / "log")
    assert hung.code is None
    assert hung.wall < 20
    row = real_size.measured({"network": "a", "case": "scan"}, hung)
    assert row["code"] is None


def test_every_network_has_a_factory(real_size: ModuleType) -> None:
    assert callable(real_size.resnet18)
    assert len(real_size.NETWORKS) == 17
    with pytest.raises(AttributeError, match="nothing"):
        _ = real_size.nothing


def test_a_case_gets_one_interrupt(real_size: ModuleType, tmp_path: Path) -> None:
    code = "import time\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('told', flush=True)\ntime.sleep(1)"
    done = real_size.run([sys.executable, "-c", code], 30.0, tmp_path / "log", 1.0)
    assert (done.code, done.text) == (0, "told\n")
    assert 1.9 < done.wall < 20
