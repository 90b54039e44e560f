"""The start-up benchmark: children count, rounds that are known are not measured again, the page gives medians."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("startup")


def test_children_of_a_command_count(startup: ModuleType, tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert startup.processor_seconds(["-c", nested], tmp_path, tmp_path) >= 0.3


def test_only_rounds_that_lack_are_measured(
    startup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(words: list[str], package: Path, folder: Path) -> float:
        turns.append(package)
        return 6.0 if package != startup.ROOT else 2.0

    turns: list[Path] = []
    monkeypatch.setattr(startup, "processor_seconds", seconds)
    monkeypatch.setattr(startup, "write_models", lambda folder, example: None)
    monkeypatch.setattr(startup, "unpack", lambda revision, folder: folder)
    path = tmp_path / "rows.jsonl"
    startup.add({"case": "inspect", "revision": "abc", "before": 8.0, "after": 2.5, "load": 1.0}, path)
    startup.measure(["inspect"], "abc", 3, path)
    assert len(turns) == 6  # a first turn of each, and two rounds
    startup.measure(["inspect"], "abc", 3, path)
    assert len(turns) == 6
    assert "| inspect | 6.00 | 2.00 | < 2.5 | 3.0 | 3 |" in startup.page(startup.rows(path))
