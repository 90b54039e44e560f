"""``scan --dry-run``: what would run, how long that takes, and what would make it possible; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakaudit.attacks.ig import IG
from leakaudit.audit.pace import Pace
from tests.cli.build import leakaudit


@pytest.fixture(autouse=True)
def no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IG, "run", None)


def dry(model: Path, batch: Path, out: Path, *words: object) -> str:
    code, printed, err = leakaudit("scan", model, "--batch", batch, "--out", out, "--dry-run", *words)
    assert code == 0, err
    assert not out.exists()
    return printed


def test_the_plan_says_what_runs_what_not_and_how_long_it_takes(model: Path, batch: Path, tmp_path: Path) -> None:
    printed = dry(model, batch, tmp_path / "out", "--victims", 2, "--preset", "quick")
    assert printed.startswith("Plan: 2 victims, 1 sample each, on cpu; a step takes ")
    assert "IG (Inverting Gradients): 2 victims, 600 steps of " in printed
    assert ": not run: " in printed
    assert "controls: quick, about " in printed
    assert "In all at most about " in printed


def test_a_budget_that_is_too_short_says_what_would_do(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "step", 20.0)
    printed = dry(model, batch, tmp_path / "out", "--victims", 1, "--time-budget", 120)
    assert "IG (Inverting Gradients): not run: time budget too short: it needs at least 100 steps of 20.0 s" in printed
    assert "2 min 00 s are too few for IG (Inverting Gradients) to say something: --time-budget " in printed


def test_a_long_audit_on_a_processor_is_told_so(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "step", 1.0)
    printed = dry(model, batch, tmp_path / "out", "--victims", 4)
    assert "4 victims, 6000 steps of 1.0 s each, about 7 h 24 min" in printed
    assert "that is long for a processor: --preset quick (about " in printed


def test_one_victim_is_attacked_to_its_end(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "step", 0.01)
    words = ("--victims", 4, "--preset", "quick", "--attack", "ig", "--time-budget", 20)
    printed = dry(model, batch, tmp_path / "out", *words)
    assert "IG (Inverting Gradients): 2 victims of 4, " in printed or "1 victim of 4, 600 steps" in printed
    assert "controls: quick, about 6.7 s" in printed


def test_modes_have_a_plan_each(model: Path, batch: Path, tmp_path: Path) -> None:
    printed = dry(model, batch, tmp_path / "out", "--mode", "both", "--victims", 1)
    assert printed.count("In all at most about ") == 2
