"""Recommendations come with an effect and with how it is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leakaudit.defences.accounting import reconstruction_bound
from leakaudit.findings.recommend import PRIOR, TOLERATED, multiplier_for
from tests.cli.build import leakaudit


def test_the_noise_level_is_the_one_that_the_bound_asks_for() -> None:
    assert reconstruction_bound(multiplier_for(PRIOR, TOLERATED), PRIOR) == pytest.approx(TOLERATED)


def scan(model: Path, batch: Path, out: Path, *words: object) -> dict[str, object]:
    quick = ("-q", "--victims", 1, "--attack", "ig", "--controls", "none", "-f", "json", "-f", "html")
    code, _, err = leakaudit("scan", model, "--batch", batch, "--out", out, *quick, *words)
    assert code in (0, 1), err
    found: dict[str, object] = json.loads((out / "report.json").read_text())
    return found


def test_a_leak_is_followed_by_what_would_help(model: Path, batch: Path, tmp_path: Path) -> None:
    report = scan(model, batch, tmp_path, "--set", "ig.iterations=400")
    entries = report["recommendations"]
    assert isinstance(entries, list)
    assert {"computed", "literature"} <= {entry["status"] for entry in entries}
    assert all(entry["effect"] for entry in entries)
    assert all(entry["reference"] for entry in entries if entry["status"] == "literature")
    assert any("noise=" in entry["try_it"] for entry in entries)
    assert "What would help" in (tmp_path / "report.html").read_text()


def test_a_defence_that_did_not_help_is_named(model: Path, batch: Path, tmp_path: Path) -> None:
    report = scan(model, batch, tmp_path, "--set", "ig.iterations=400", "--defence", "bits=16")
    entries = report["recommendations"]
    assert isinstance(entries, list)
    named = [entry for entry in entries if "bits=16" in entry["title"]]
    assert [entry["status"] for entry in named] == ["measured"]
