"""Files are loaded in a child first: the model is the same, and a file that kills the child is never opened here."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from leakaudit.errors import ModelError, UsageError
from leakaudit.safety import confined
from leakaudit.target import answers, isolated
from leakaudit.target.isolated import load_isolated
from leakaudit.target.load import load
from leakaudit.target.onnx import load as onnx_load
from leakaudit.target.target import Target
from tests.cli.build import export
from tests.fuzz import models
from tests.fuzz.subject import written

ROOT = Path(__file__).parents[2]
SAME = """
import sys, tempfile
from pathlib import Path
from leakaudit.safety.confined import confined
from leakaudit.errors import ModelError
from leakaudit.target.isolated import _differentiates
from tests.target.test_isolated import compared
names = sys.argv[1:]
print("fresh" if confined(_differentiates, "x", ModelError) else "used")
with tempfile.TemporaryDirectory() as folder:
    compared(Path(folder), names)
"""
FEW = ("cnn.onnx", "average_pool_ceil.onnx", "gemm_scalar_bias.onnx")


def told(target: Target) -> dict[str, Any]:
    """All that is known of a model but its module."""
    facts = {f.name: getattr(target, f.name) for f in dataclasses.fields(target) if f.name not in ("module", "domain")}
    return {**facts, "domain": repr(target.domain), "names": list(target.parameters)}


def compared(folder: Path, names: list[str]) -> None:
    """Load files here and through a child, through the child first."""
    files = [*models.onnx_files(), *models.exported_files()]
    for name, content in files:
        if names and name not in names:
            continue
        path = written(folder, name, content)
        options = {"trust": name.endswith("pt2")}
        there, here = load_isolated(path, **options), load(path, **options)
        assert told(there) == told(here), name
        for key, tensor in here.parameters.items():
            assert torch.equal(tensor, there.parameters[key]), key


def test_a_model_is_the_same_through_a_child(tmp_path: Path) -> None:
    compared(tmp_path, [*FEW, "mlp.pt2"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FEW, "mlp.pt2"])
def test_it_is_where_no_derivative_was_computed_before(name: str) -> None:
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", SAME, name], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "fresh" in ended.stdout


@pytest.mark.slow
def test_every_model_is_the_same_through_a_child(tmp_path: Path) -> None:
    compared(tmp_path, [])


def test_nothing_is_run_here_that_the_child_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "cnn.onnx", dict(models.onnx_files())["cnn.onnx"])
    with answers.recording() as recorded:
        whole = load(path)
    assert {name for name, _ in recorded} >= {"compare", "batch_sizes", "reach", "reach_note", "find_ending"}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a derivative was computed here")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    with answers.giving(recorded):
        assert told(load(path)) == told(whole)


def test_answers_to_other_questions_are_not_taken(tmp_path: Path) -> None:
    path = written(tmp_path, "cnn.onnx", dict(models.onnx_files())["cnn.onnx"])
    with answers.giving([("batch_sizes", (7,)), ("compare", [None, None, "", "no"])]):
        assert told(load(path)) == told(load(path))


def test_a_file_that_kills_its_reader_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "cnn.onnx", dict(models.onnx_files())["cnn.onnx"])

    def crash(file: Path, **options: Any) -> Target:
        assert confined._State.inside, "it is opened here"
        return ctypes.string_at(0)  # type: ignore[return-value]

    monkeypatch.setattr(isolated, "load", crash)
    with pytest.raises(ModelError, match=r"crashes the library that opens it \(SIGSEGV\)"):
        load_isolated(path)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another stands there as soon as the child has read the first; what the child says is of that one."""
    path = written(tmp_path, "cnn.onnx", dict(models.onnx_files())["cnn.onnx"])
    another = onnx.load_model_from_string(path.read_bytes())
    another.doc_string = "another"
    was_read, is_replaced = os.pipe(), os.pipe()
    original = onnx_load.read_model

    def then_waiting(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        if confined._State.inside:
            os.write(was_read[1], b"1")
            os.read(is_replaced[0], 1)
        return model

    def replace() -> None:
        os.read(was_read[0], 1)
        path.write_bytes(another.SerializeToString())
        os.write(is_replaced[1], b"1")

    monkeypatch.setattr(onnx_load, "read_model", then_waiting)
    thread = threading.Thread(target=replace, daemon=True)
    thread.start()
    with pytest.raises(ModelError, match="changed while it was read"):
        load_isolated(path)
    thread.join(10)
    for end in (*was_read, *is_replaced):
        os.close(end)


@pytest.mark.slow
def test_a_swin_transformer_is_not_called_hostile_and_a_hostile_one_is(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    path = export(torchvision.models.swin_t(num_classes=10), tmp_path / "swin.onnx", (3, 224, 224))
    assert load_isolated(path).classes == 10
    model = onnx.load(path)
    first = next(node for node in model.graph.node if "input" in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1 << 12, 1 << 12]), "often"))
    model.graph.node.insert(0, onnx.helper.make_node("Tile", ["input", "often"], ["tiled"]))
    model.graph.node.insert(1, onnx.helper.make_node("ReduceMax", ["tiled"], ["top"], keepdims=0))
    model.graph.node.insert(2, onnx.helper.make_node("Add", ["input", "top"], ["moved"]))
    first.input[list(first.input).index("input")] = "moved"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="more than the"):
        load_isolated(path)


def test_what_is_no_file_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        load_isolated(tmp_path)
    with pytest.raises(UsageError, match="is a device"):
        load_isolated("/dev/zero")
