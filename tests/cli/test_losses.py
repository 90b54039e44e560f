"""``--loss`` on a model file: losses with settings, and a loss of the user's own, from the terminal to the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from leakaudit.target import train_config
from tests.cli.build import export, leakaudit

OWN = """
import torch

def log_cosh(outputs, labels):
    return torch.log(torch.cosh(outputs - labels)).mean()

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        ctx.save_for_backward(value)
        return value.square()
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope

def once(outputs, labels):
    return Once.apply(outputs - labels).mean()

def broken(outputs, labels):
    return outputs.gold
"""
FAST = ("--victims", "1", "--controls", "none", "--preset", "quick", "-f", "json", "-f", "html", "--fail-on", "never")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier, a regression net, their samples, and a module with losses."""
    torch.manual_seed(0)
    for name, outputs in (("classes", 4), ("numbers", 2)):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, outputs))
        export(net, tmp_path / f"{name}.onnx", (1, 8, 8))
    generator = np.random.default_rng(0)
    inputs = generator.random((24, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "classes.npz", x=inputs, y=np.arange(24) % 4)
    np.savez(tmp_path / "numbers.npz", x=inputs, y=generator.normal(50, 9, (24, 2)).astype(np.float32))
    (tmp_path / "mylosses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mylosses", raising=False)
    return tmp_path


def scanned(name: str, *words: str) -> dict[str, Any]:
    code, _, err = leakaudit("scan", f"{name}.onnx", "--batch", f"{name}.npz", *FAST, *words)
    assert code in (0, 1, 5), err
    found: dict[str, Any] = json.loads(Path("leakaudit-report/report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cross-entropy:smoothing=0.1,weights=[1,2,3,4]", "cross-entropy (label smoothing 0.1, class weights)"),
        pytest.param("focal:gamma=2", "focal loss (γ = 2)", marks=pytest.mark.slow),
    ],
)
def test_a_loss_with_settings_is_audited_exactly(folder: Path, text: str, told: str) -> None:
    report = scanned("classes", "--loss", text, "--attack", "linear")
    assert report["target"]["loss"] == told
    (result,) = (r for a in report["attacks"] if a["name"] == "linear" for r in a["results"])
    assert (result["labels"]["correct"], result["certified"]) == (1, True)
    assert f"--loss '{text}'" in " ".join(report["command"]) or text in report["command"]


def test_a_loss_of_ones_own_is_audited_exactly(folder: Path) -> None:
    words = ("--loss", "mylosses:log_cosh", "--task", "regression", "--attack", "linear", "--attack", "ig")
    report = scanned("numbers", *words, "--set", "ig.iterations=20")
    assert report["target"]["loss"] == "the user's own mylosses:log_cosh"
    by_name = {a["name"]: a for a in report["attacks"]}
    assert by_name["linear"]["results"][0]["samples"][0]["leaked"]
    assert by_name["ig"]["status"] == "run"


def test_without_a_second_derivative_closed_forms_run_and_it_is_said(folder: Path) -> None:
    words = ("--loss", "mylosses:once", "--task", "regression", "--attack", "linear", "--attack", "ig")
    report = scanned("numbers", *words)
    by_name = {a["name"]: a for a in report["attacks"]}
    assert by_name["linear"]["results"][0]["samples"][0]["leaked"]
    assert by_name["ig"]["status"] == "not_applicable"
    assert "no second derivative" in by_name["ig"]["reason"]
    assert "LA930" in {finding["id"] for finding in report["findings"]}


def test_what_fails_in_it_is_called_the_users(folder: Path) -> None:
    common = ("scan", "numbers.onnx", "--batch", "numbers.npz", *FAST, "-q", "--loss")
    code, _, err = leakaudit(*common, "mylosses:broken", "--task", "regression")
    assert code == 2
    assert err.startswith("Error: --loss mylosses:broken raised ")
    assert "(mylosses.py, line " in err
    assert len(err.splitlines()) == 2
    code, _, err = leakaudit(*common, "mylosses:log_cosh")
    assert code == 2
    assert "add --task NAME" in err


def test_a_file_of_settings_names_no_function(folder: Path) -> None:
    """It may be named by a policy that was found."""
    Path("train.toml").write_text('loss = "mylosses:log_cosh"\n')
    code, _, err = leakaudit("scan", "numbers.onnx", "-b", "numbers.npz", *FAST, "--train-config", "train.toml")
    assert (code, "mylosses" in sys.modules) == (2, False)
    assert "loss = 'mylosses:log_cosh', expected cross-entropy" in err
    Path("train.toml").write_text('loss = "focal:gamma=1"\n')
    assert train_config.read_train_config("train.toml") == {"loss": "focal:gamma=1"}
