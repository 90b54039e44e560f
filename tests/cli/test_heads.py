"""A loss over several outputs, from the command line to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.build import leakaudit
from tests.target.head_networks import STATED, TwoHeads, onnx_of, samples

HERE = "tests.target.head_networks"
FAST = ("--victims", "1", "--controls", "none", "--preset", "quick", "-f", "json", "-f", "html")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two outputs, the same weights as a checkpoint, and samples."""
    made = tmp_path_factory.mktemp("heads")
    onnx_of(TwoHeads(), made / "net.onnx")
    torch.save(TwoHeads().state_dict(), made / "net.pt")
    inputs, labels = samples(12)
    np.savez(made / "batch.npz", inputs=inputs.numpy(), labels=labels.numpy())
    return made


@pytest.mark.parametrize(
    "asked", [("net.onnx", "--output", STATED), ("net.pt", "--factory", f"{HERE}:TwoHeads", "--train-config", "t.toml")]
)
def test_a_scan_of_two_heads_ends_with_a_report(folder: Path, asked: tuple[str, ...], tmp_path: Path) -> None:
    (folder / "t.toml").write_text(f'output = "{STATED}"\n', encoding="utf-8")
    words = [folder / word if word in ("net.onnx", "net.pt", "t.toml") else word for word in asked]
    options = ("--batch", folder / "batch.npz", "--attack", "rgap", *FAST)
    shape = () if "net.onnx" in asked else ("--input-shape", "3,12,12")
    code, out, err = leakaudit("scan", *words, *options, *shape, "--out", tmp_path)
    assert code == 1, err
    assert "taken for one class of K by cross-entropy of logits + 0.3 × aux" in err
    assert "LEAKS" in out
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert document["target"]["loss"] == "cross-entropy of logits + 0.3 × aux"
    assert (document["target"]["classes"], document["target"]["outputs"]) == (5, 10)
    (run,) = [attack for attack in document["attacks"] if attack["name"] == "rgap"]
    assert run["results"][0]["samples"][0]["leaked"]
    if "net.onnx" in asked:
        assert f"--output {STATED}" in " ".join(document["command"])
    assert "cross-entropy of logits + 0.3 × aux" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_inspect_says_the_loss_and_a_wrong_sum_is_one_line(folder: Path) -> None:
    code, out, _ = leakaudit("inspect", folder / "net.onnx", "--output", STATED)
    assert code == 0
    assert "single-label by cross-entropy of logits + 0.3 × aux" in out
    code, out, err = leakaudit("inspect", folder / "net.onnx", "--output", "logits+0.3*side")
    assert code == 2
    assert not out
    assert "has no output 'side'; it has logits, aux" in err
    assert "Traceback" not in err


def test_a_defence_of_one_last_layer_says_why_it_cannot_be(folder: Path, tmp_path: Path) -> None:
    options = ("--batch", folder / "batch.npz", "--attack", "rgap", *FAST)
    code, _, err = leakaudit(
        "scan", folder / "net.onnx", "--output", STATED, "--defence", "precode=8", *options, "--out", tmp_path
    )
    assert code not in (0, 1)
    assert "no one last layer: its loss is over several heads (logits, aux)" in err
