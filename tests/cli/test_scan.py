"""The command line on real files: reports, exit codes, and one clear line for every bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.cli.build import CLASSES, leakaudit
from tests.conftest import smooth_images

QUICK = ("--attack", "ig", "--set", "ig.iterations=200", "--victims", "1", "--mean", "0.5", "--std", "0.25")


def test_scan_writes_a_complete_report(model: Path, batch: Path, tmp_path: Path) -> None:
    code, out, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path / "r", *QUICK)
    assert code == 1, err
    assert "LEAKS (" in out
    assert "LA201 [critical" in out
    assert str(tmp_path / "r" / "report.html") in out
    document = json.loads((tmp_path / "r" / "report.json").read_text())
    assert document["schema_version"] == 1
    (victim,) = document["attacks"][0]["results"]
    assert victim["labels"]["true"] == victim["labels"]["inferred"]
    (sample,) = victim["samples"]
    assert sample["leaked"]
    assert sample["psnr"] > sample["floors"]["grey"]["psnr"] + 20
    assert sample["lpips"] is not None or sample["lpips_reason"]
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "r" / "report.pdf").read_bytes().startswith(b"%PDF")


def numbers(directory: Path) -> object:
    """The report without times, paths and dates."""
    document = json.loads((directory / "report.json").read_text())

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in {"seconds", "created", "command", "self_sha256"}}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(document)


def test_same_seed_same_numbers(model: Path, batch: Path, tmp_path: Path) -> None:
    options = ("--format", "json", "--fail-on", "never", *QUICK, "--set", "ig.iterations=30")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert leakaudit("scan", model, "-b", batch, "-o", tmp_path / name, "--seed", seed, *options)[0] == 0
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert numbers(tmp_path / "a") != numbers(tmp_path / "c")


def test_fail_on_decides_the_exit_code(model: Path, batch: Path, tmp_path: Path) -> None:
    common = ("scan", model, "-b", batch, "-o", tmp_path, "-f", "json", "-q", "--attack", "ig", "--victims", 1)
    weak = ("--set", "ig.iterations=1")
    assert leakaudit(*common, *weak)[0] == 5  # it recovers no known leak either
    weak = (*weak, "--controls", "none")
    assert leakaudit(*common, *weak)[0] == 5  # nor was it asked for one
    assert leakaudit(*common, *weak, "--fail-on", "medium")[0] == 1  # the label
    assert leakaudit(*common, *weak, "--fail-on", "never")[0] == 5
    assert leakaudit(*common, "--set", "ig.iterations=150")[0] == 1
    assert leakaudit(*common, "--set", "ig.iterations=150", "--fail-on", "never")[0] == 0


def test_time_budget_plans_the_iterations(model: Path, batch: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    code, _, _ = leakaudit(
        "scan", model, "-b", batch, "-o", tmp_path, "-f", "json", "--attack", "ig", "--victims", 2,
        "--set", "ig.iterations=100000", "--time-budget", 5, "--fail-on", "never",
    )  # fmt: skip
    assert code == 0
    assert time.monotonic() - started < 20
    results = json.loads((tmp_path / "report.json").read_text())["attacks"][0]["results"]
    assert len(results) == 1, "of so many steps one victim is attacked, not two"
    assert 0 < results[0]["iterations"] < 100000


def test_batches_of_several_samples(model: Path, batch: Path, tmp_path: Path) -> None:
    code, _, err = leakaudit(
        "scan", model, "-b", batch, "-o", tmp_path, "-f", "json", "--batch-size", 4, "--victims", 2,
        "--attack", "ig", "--set", "ig.iterations=20", "--fail-on", "never",
    )  # fmt: skip
    assert code == 0, err
    results = json.loads((tmp_path / "report.json").read_text())["attacks"][0]["results"]
    assert [len(r["samples"]) for r in results] == [4, 4]
    assert len({s["index"] for r in results for s in r["samples"]}) == 8


def test_attacks_lists_needs() -> None:
    code, out, _ = leakaudit("attacks")
    assert code == 0
    assert "ig" in out
    assert "2003.14053" in out


def quantised(path: Path) -> Path:
    """A model whose weights are int8."""
    weight = numpy_helper.from_array(np.ones((CLASSES, 432), np.int8), "w")
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        helper.make_node("Gemm", ["flat", "wf"], ["out"], transB=1),
    ]
    return save_graph(path, nodes, [weight, scale, zero])


def without_weights(path: Path) -> Path:
    """A model that has nothing to train."""
    return save_graph(path, [helper.make_node("Flatten", ["input"], ["out"])], [], outputs=432)


def save_graph(path: Path, nodes: list[object], initialisers: list[object], outputs: int = CLASSES) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", outputs])],
        initialisers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def bad_model(kind: str, good: Path, folder: Path) -> Path:
    path = folder / f"{kind}.onnx"
    if kind == "missing":
        return path
    if kind == "text":
        path.write_text("this is no model")
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-2000])
    elif kind == "empty":
        path.write_bytes(b"")
    return {"int8": quantised, "no weights": without_weights}.get(kind, lambda p: p)(path)


@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [
        ("missing", 2, "no such model file"),
        ("text", 3, "text.onnx"),
        ("truncated", 3, "truncated.onnx"),
        ("empty", 3, "empty.onnx"),
        ("int8", 3, "quantis"),
        ("no weights", 3, "train"),
    ],
)
def test_bad_models(kind: str, code: int, word: str, model: Path, batch: Path, tmp_path: Path) -> None:
    check_refusal(tmp_path, code, word, "scan", bad_model(kind, model, tmp_path), "--batch", batch)


def check_refusal(tmp_path: Path, code: int, word: str, *args: object) -> None:
    """One error line, at most one hint, the code, and the older report untouched."""
    old = tmp_path / "out"
    old.mkdir()
    (old / "report.json").write_text("older")
    got, _, err = leakaudit(*args, "--out", old)
    assert got == code, err
    lines = [line for line in err.splitlines() if line and not line.startswith("·")]
    assert sum(line.startswith("Error:") for line in lines) == 1, err
    assert len(lines) <= 2, err
    assert word in lines[0], err
    assert "Traceback" not in err
    assert (old / "report.json").read_text() == "older"
    assert [p.name for p in old.iterdir()] == ["report.json"]


GOOD = smooth_images(20)
LABELS = np.arange(20) % CLASSES
WITH_NAN = GOOD.copy()
WITH_NAN[2, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"x": GOOD[:, :, :5], "y": LABELS}, "the model takes (3, 12, 12)"),
        ({"x": GOOD.astype(str), "y": LABELS}, "dtype"),
        ({"x": WITH_NAN, "y": LABELS}, "NaN"),
        ({"x": GOOD, "y": LABELS + 1}, "out of range"),
        ({"x": np.array([{"a": 1}] * 20), "y": LABELS}, "pickled"),
    ],
    ids=["shape", "dtype", "nan", "labels", "pickle"],
)
def test_bad_batches(arrays: dict[str, np.ndarray], word: str, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    check_refusal(tmp_path, 3, word, "scan", model, "--batch", tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--batch", "none.npz"), "no such batch"),
        (("--mean", "0.1,0.2"), "--mean has 2 values"),
        (("--std", "0"), "positive"),
        (("--attack", "nope"), "no attack named 'nope'"),
        (("--set", "ig.nope=1"), "no such setting"),
        (("--set", "ig.iterations=many"), "expected a int"),
        (("--set", "ig.iterations=0"), "positive"),
        (("--batch-size", "0"), "at least 1"),
        (("--victims", "50"), "need 50 samples"),
        (("--time-budget", "-1"), "more than 0"),
        (("--lpips-weights", "none.pth"), "none.pth"),
        (("--device", "cuda"), "no CUDA device"),
    ],
)
def test_bad_options(options: tuple[str, str], word: str, model: Path, batch: Path, tmp_path: Path) -> None:
    if options[0] == "--device" and torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    check_refusal(tmp_path, 2, word, "scan", model, "--batch", batch, *options)


def test_options_that_click_refuses(model: Path, batch: Path) -> None:
    for options in (("--preset", "best"), ("--mean", "a,b"), ("--set", "iterations=3"), ("--nope",)):
        code, _, err = leakaudit("scan", model, "--batch", batch, *options)
        assert code == 2
        assert "Error" in err
        assert "Traceback" not in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_out_in_a_folder_that_is_not_writable(model: Path, batch: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path / "locked" / "r")
    assert code == 2
    assert "not writable" in err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_out_that_not_even_root_may_write(model: Path, batch: Path) -> None:
    code, _, err = leakaudit("scan", model, "--batch", batch, "--out", "/proc/leakaudit-report")
    assert code == 2
    assert "not writable" in err
    assert "rank analysis" not in err


def test_out_that_is_a_file(model: Path, batch: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path / "file")
    assert code == 2
    assert "file" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_interrupt_writes_a_partial_report(model: Path, batch: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-c", "from leakaudit.cli import main; main()", "scan", str(model), "--batch", str(batch),
        "--out", str(tmp_path), "-f", "json", "--attack", "ig", "--set", "ig.iterations=1000000", "--victims", "2",
        "--preset", "quick", "--set", "ig.execution=eager", "--set", "ig.search=false", "--set", "ig.tolerance=0",
        "--debug", "-v",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "begins" in line:
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads((tmp_path / "report.json").read_text())
    assert "interrupted" in document["partial"]
    ig = document["attacks"][0]
    assert ig["status"] == "run"
    assert "1 of 2 victims" in ig["reason"]
    assert "stopped after" in ig["results"][0]["stopped"]
    assert ig["results"][0]["iterations"] > 0
    assert ig["results"][0]["residual"] < 2
    assert "Report:" in out
