"""Defences through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from leakaudit.defences.registry import available
from tests.cli.build import leakaudit


def test_scan_of_a_defended_update_states_bound_counterpart_and_checks(
    model: Path, batch: Path, tmp_path: Path
) -> None:
    code, out, _ = leakaudit(
        *("scan", model, "--batch", batch, "--out", tmp_path, "-q", "--victims", 1, "--preset", "quick", "-f", "json"),
        *("--defence", "clip=1,noise=1", "--attack", "ig", "--set", "ig.iterations=20"),
    )
    assert code in (0, 5), out
    report = json.loads((tmp_path / "report.json").read_text())
    (defence,) = report["defences"]
    assert defence["accounting"]["noise_multiplier"] == 1
    assert 0.01 < defence["accounting"]["reconstruction"] < 0.2
    assert all(check["holds"] for check in defence["checks"])
    assert "ε = " in report["verdict"]["at_most"]
    assert "clip=1,noise=1" in report["attacks"][0]["given"]["update"]


def test_impossible_defences_are_refused(model: Path, batch: Path, tmp_path: Path) -> None:
    for text, message in (("prune=2", "expected at least 0"), ("clients=50", "the batch file holds 20")):
        code, _, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path, "--defence", text)
        assert code == 2
        assert message in err
        assert "Traceback" not in err


def test_defences_lists_every_one() -> None:
    code, out, _ = leakaudit("defences")
    assert code == 0
    assert all(key in out for key in available())


def test_a_claim_that_the_update_does_not_keep_is_a_finding(model: Path, batch: Path, tmp_path: Path) -> None:
    code, _, err = leakaudit(
        *("scan", model, "--batch", batch, "--out", tmp_path, "-q", "--victims", 1, "-f", "json", "-f", "html"),
        *("--defence", "prune=0.2", "--claim", "prune=0.9", "--controls", "none"),
        *("--attack", "ig", "--set", "ig.iterations=5"),
    )
    assert code == 1, err
    report = json.loads((tmp_path / "report.json").read_text())
    (finding,) = [f for f in report["findings"] if f["id"] == "LA501"]
    assert "share of zero entries is 0.2" in finding["message"]
    assert "FAILS" in (tmp_path / "report.html").read_text()
