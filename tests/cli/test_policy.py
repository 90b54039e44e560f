"""A run as a CI job makes it: policy, baseline and suppressions in a repository, exit code, SARIF and JUnit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from tests.cli.build import CLASSES, export, leakaudit
from tests.conftest import smooth_images
from tests.report.sarif_subset import check_sarif

COMMAND = ("--mean", "0.5", "--std", "0.25", "-f", "json", "-f", "sarif", "-f", "junit", "-f", "markdown", "-o", "out")
POLICY = """
batch = "data/batch.npz"
model = "model.onnx"
victims = 1
attack = ["linear"]
fail-on = "high"
"""
SUPPRESSION = '\n[[suppress]]\nrule = "LA203"\nreason = "accepted by the review board"\nexpires = {}\n'


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that leaks by a division, its batch, and a policy."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    (tmp_path / ".git").mkdir()
    (tmp_path / "data").mkdir()
    export(net, tmp_path / "model.onnx")
    np.savez(tmp_path / "data" / "batch.npz", x=smooth_images(20), y=np.arange(20) % CLASSES)
    (tmp_path / "leakaudit.toml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def add(repository: Path, text: str) -> None:
    with (repository / "leakaudit.toml").open("a") as stream:
        stream.write(text)


def outcome(repository: Path) -> tuple[dict[str, Any], ElementTree.Element]:
    run = check_sarif((repository / "out" / "report.sarif").read_text())["runs"][0]
    return run, ElementTree.parse(repository / "out" / "report.junit.xml").getroot()


def clean(repository: Path) -> int:
    add(repository, '[rules]\nLA2xx = "never"\n')
    return 0


def finding(repository: Path) -> int:
    return 1


def suppressed(repository: Path) -> int:
    add(repository, SUPPRESSION.format("2999-01-01"))
    return 0


def expired(repository: Path) -> int:
    add(repository, SUPPRESSION.format("2020-01-01"))
    return 1


def inconclusive(repository: Path) -> int:
    text = (repository / "leakaudit.toml").read_text()
    (repository / "leakaudit.toml").write_text(text.replace('"linear"', '"gradinversion"'))  # needs BatchNorm
    return 5


def error(repository: Path) -> int:
    (repository / "model.onnx").write_bytes(b"not a model")
    return 3


@pytest.mark.parametrize("scene", [clean, finding, suppressed, expired, inconclusive, error])
def test_a_job(repository: Path, scene: Callable[[Path], int]) -> None:
    wanted = scene(repository)
    code, out, err = leakaudit("scan", *COMMAND)
    assert code == wanted, out + err
    run, junit = outcome(repository)
    results = {result["ruleId"]: result for result in run["results"]}
    assert run["invocations"][0]["executionSuccessful"] is (scene not in (inconclusive, error))
    assert int(junit.get("failures", "")) == (1 if scene in (finding, expired) else 0)
    assert int(junit.get("errors", "")) == (1 if scene in (inconclusive, error) else 0)
    if scene is error:
        assert not (repository / "out" / "report.json").exists()
        return
    policy = json.loads((repository / "out" / "report.json").read_text())["policy"]
    assert policy["file"] == "leakaudit.toml"
    if scene in (suppressed, expired):
        assert [s["state"] for s in policy["suppressions"]] == [scene.__name__.replace("suppressed", "active")]
        assert ("suppressions" in results["LA203"]) is (scene is suppressed)
        assert ("Expired: the suppression of LA203" in out) is (scene is expired)
    if scene is finding:
        assert results["LA203"]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "model.onnx"


def test_a_baseline_accepts_what_was_known(repository: Path) -> None:
    assert leakaudit("scan", *COMMAND)[0] == 1
    (repository / "out" / "report.json").rename(repository / "known.json")
    code, _, err = leakaudit("scan", *COMMAND, "--baseline", "known.json")
    assert code == 0, err
    run, junit = outcome(repository)
    assert {result["baselineState"] for result in run["results"]} == {"unchanged"}
    assert junit.get("failures") == "0"
    (repository / "known.json").write_text("{}")
    code, _, err = leakaudit("scan", *COMMAND, "--baseline", "known.json")
    assert code == 2
    assert "report schema None, expected 1" in err


def resolved(repository: Path) -> dict[str, tuple[Any, str]]:
    policy = json.loads((repository / "out" / "report.json").read_text())["policy"]
    return {entry["name"]: (entry["value"], entry["source"]) for entry in policy["settings"]}


def test_the_command_line_wins_over_the_environment_over_the_file(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(repository, "seed = 5\n")
    monkeypatch.setenv("LEAKAUDIT_FAIL_ON", "critical")
    monkeypatch.setenv("LEAKAUDIT_SEED", "6")
    leakaudit("scan", *COMMAND, "--seed", "7")
    found = resolved(repository)
    assert found["seed"] == (7, "command line")
    assert found["fail_on"] == ("critical", "environment")
    assert found["victims"] == (1, "file")
    assert found["preset"] == ("standard", "default")
    assert found["batch"][1] == "file"


def test_blurred_by_default_in_ci_with_a_summary(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(repository / "summary.md"))
    (repository / "summary.md").write_text("before\n")
    leakaudit("scan", *COMMAND)
    assert json.loads((repository / "out" / "report.json").read_text())["evidence"] == "blurred"
    assert (repository / "summary.md").read_text().startswith("before\n## leakaudit: LEAKS")
    leakaudit("scan", *COMMAND, "--evidence", "none")
    document = json.loads((repository / "out" / "report.json").read_text())
    assert document["attacks"][0]["results"][0]["samples"][0]["original_png"] is None


def test_a_job_page_says_that_an_audit_failed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(repository / "summary.md"))
    (repository / "broken.npz").write_bytes(b"no archive")
    code, _, err = leakaudit("scan", *COMMAND, "--batch", repository / "broken.npz")
    assert code == 3, err
    said = (repository / "summary.md").read_text()
    assert said.startswith("## leakaudit: could not audit ")
    assert "says nothing of a leak" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fail-oon = 'low'", "unknown key 'fail-oon'"),
        ("dry-run = true", "unknown key 'dry-run'"),
        ("preset = 'huge'", "'huge' is not one of"),
        ("victims = 'many'", "'many' is not a valid integer"),
    ],
)
def test_mistakes_in_the_file_are_usage_errors(repository: Path, text: str, message: str) -> None:
    (repository / "leakaudit.toml").write_text(POLICY.replace("victims = 1", "") + text)
    code, _, err = leakaudit("scan", *COMMAND)
    assert code == 2
    assert message in err
