"""``leakaudit inspect`` and ``--train-config``: what is printed, which exit code, and one line per mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from tests.cli.build import leakaudit
from tests.target import build

NAMES = ("scale", "shift", "mean", "variance")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Linear, BatchNorm, ReLU, linear."""
    nodes, tensors = build.linear(source="r")
    nodes[:0] = [
        helper.make_node("MatMul", ["x", "mix"], ["m"], "mix_node"),
        helper.make_node("BatchNormalization", ["m", *NAMES], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "act"),
    ]
    values = [numpy_helper.from_array(np.linspace(0.5, 1.5, 12, dtype=np.float32), name) for name in NAMES]
    return build.write(tmp_path / "m.onnx", nodes, [*tensors, *values, build.tensor("mix", 12, 12)])


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(text)
    return path


def summary(*words: object) -> dict:
    code, out, err = leakaudit("inspect", *words, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def test_text_and_json_say_the_same(model: Path) -> None:
    told = summary(model)
    assert (told["classes"], told["mode"], told["input"]["image"]) == (4, "eval", [1, 1, 12])
    assert {t["name"] for t in told["trainable_tensors"]} == {"weight", "bias", "mix", "scale", "shift"}
    assert {attack["name"] for attack in told["attacks"]} >= {"ig"}
    code, out, _ = leakaudit("inspect", model)
    assert code == 0
    for word in ("4 classes", "mix", "norm", "LA902", f"{told['parameters']:,} numbers"):
        assert word in out


def test_real_files(data: Path) -> None:
    for name in ("lenet_pt13_op9", "mnist_cnn_keras2onnx_op12_nhwc", "lenet5_pt17_op10"):
        told = summary(data / "onnx" / f"{name}.onnx")
        assert told["classes"] == 10
        assert told["layers"]
        assert any(note["id"] == "LA940" for note in told["fidelity"])


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07\x12\x04abcd", b"PK\x03\x04broken", b"\x80\x02x"])
def test_broken_files_get_one_line_and_a_hint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    code, out, err = leakaudit("inspect", path)
    assert (code, out) == (3, "")
    lines = err.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["Error:", "Hint:"], err


def test_missing_file(tmp_path: Path) -> None:
    code, _, err = leakaudit("inspect", tmp_path / "none.onnx")
    assert code == 2
    assert "is not a file" in err


def test_train_config_is_followed_and_options_win(model: Path, tmp_path: Path) -> None:
    text = 'mode = "train"\nfrozen = ["mi*"]\nbatchnorm = "running"\nloss = "cross-entropy"\n[dropout]\nact = 0.25\n'
    path = config(tmp_path, text)
    told = summary(model, "--train-config", path)
    assert told["mode"] == "train"
    assert [(layer["name"], layer["p"]) for layer in told["dropout"]] == [("act", 0.25)]
    assert "mix" not in {t["name"] for t in told["trainable_tensors"]}
    won = summary(model, "--train-config", path, "--mode", "eval", "--dropout", "act=0.5", "--frozen", "bia*")
    assert won["mode"] == "eval"
    assert [(layer["name"], layer["p"]) for layer in won["dropout"]] == [("act", 0.5)]
    assert {t["name"] for t in won["trainable_tensors"]} == {"weight", "mix", "scale", "shift"}


def test_batchnorm_statistics_are_chosen(model: Path) -> None:
    from leakaudit.target import load

    x = torch.rand(6, 3, 2, 2)
    running, batch = load(model).logits(x), load(model, mode="train").logits(x)
    assert not torch.allclose(running, batch)
    torch.testing.assert_close(load(model, mode="train", batchnorm="running").logits(x), running)
    torch.testing.assert_close(load(model, batchnorm="batch").logits(x), batch)


@pytest.mark.parametrize(("text", "words"), [
    ('mode = "evaluation"', ["mode = 'evaluation'", '"eval" or "train"']),
    ('frozen = "conv*"', ["frozen = 'conv*'", "list of patterns"]),
    ("[dropout]\na = 0.1\nact = 1.0", ["[dropout] 'act' = 1.0", "from 0 to below 1"]),
    ("dropout = 0.5", ["dropout = 0.5", "table of NODE = P"]),
    ("loss = true", ["loss = True", "expected cross-entropy, focal, bce, mse"]),
    ('task = "detection"', ["task = 'detection'", '"multi-label"']),
    ("pos_weight = 2", ["pos_weight = 2", "list of numbers above 0"]),
    ('batchnorm = ["batch"]', ["batchnorm = ['batch']", '"batch" or "running"']),
    ("output = 3", ["output = 3", "a sum as logits+0.3*aux1"]),
    ("label_smoothing = 0.1", ["unknown key 'label_smoothing'", "expected one of mode", "cross-entropy:smoothing=0.1"]),
    ("mode = eval", ["is not TOML", "line 1"]),
    ('loss = "bce"\ntask = "single-label"', ["loss 'bce' over 4 outputs is several classes", "--task multi-label"]),
    ('frozen = ["conv*"]', ["'conv*' matches no tensor", "weight"]),
    ("[dropout]\nnothing = 0.5", ["no node 'nothing'", "mix_node"]),
    ('output = "z"', ["no output 'z'"]),
])  # fmt: skip
def test_wrong_train_config_is_one_clear_line(model: Path, tmp_path: Path, text: str, words: list[str]) -> None:
    code, out, err = leakaudit("inspect", model, "--train-config", config(tmp_path, text))
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) <= 2, err
    for word in words:
        assert word in err


def test_train_config_that_is_not_there(model: Path, tmp_path: Path) -> None:
    code, _, err = leakaudit("inspect", model, "--train-config", tmp_path / "none.toml")
    assert code == 2
    assert "none.toml is not a file" in err
