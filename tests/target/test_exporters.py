"""The oracle of exporters: the audited update is autograd's on the module, or a note says what differs.

The full table is 35 architectures by eight ways of handing them over, as they are before training and with every
tensor moved; a few of them run by default.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from leakaudit.errors import ModelError
from leakaudit.target import Target, load
from tests.target import exporters

SAID = {"LA900", "LA901", "LA914", "LA916"}
"""Notes that say at the top of a report that the file is not what clients train, or may not be."""
UNSUPPORTED = {
    ("weight_norm", "torchscript"): "torch cannot script a parametrised module: the program raises an error",
    ("attention", "traced"): "torch's own check of the traced module fails",
}
EXACT = [
    ("groupnorm", "legacy"), ("instancenorm_no_affine", "legacy_faithful"), ("scalars", "legacy"),
    ("layernorm", "dynamo"), ("attention", "dynamo"), ("instancenorm_no_affine", "dynamo"), ("softmax_hand", "dynamo"),
    ("batchnorm_first", "dynamo"), ("batchnorm", "dynamo_unoptimised"),
    ("scalars", "dynamo_unoptimised"), ("sigmoid_pair", "pt2"),
    ("softmax_smoothed", "torchscript"), ("batchnorm", "torchscript"), ("lstm", "torchscript"), ("softmax", "module"),
]  # fmt: skip
"""What runs by default and is the module's update: each failed before its mechanism was mended."""
CHANGED = [
    ("batchnorm", "legacy", "LA901", "onnx::Conv"), ("batchnorm", "dynamo", "LA901", "body.1.weight"),
    ("weight_norm", "dynamo", "LA900", "parametrizations.weight.original0"), ("prompt", "legacy", "LA914", "prompt"),
]  # fmt: skip
"""What an exporter has changed beyond repair, and what the note names."""


def handed_over(name: str, way: str, trained: bool, folder: Path) -> Target:
    model = exporters.hand_over(exporters.build(name, trained), way, folder)
    return load(model, image_shape=exporters.SHAPE, trust=True)


def compared(name: str, way: str, trained: bool, folder: Path) -> tuple[Target, list[str]]:
    """A target and in what its update differs from the module's."""
    target = handed_over(name, way, trained, folder)
    x = torch.rand(2, *exporters.SHAPE, generator=torch.Generator().manual_seed(3))
    y = torch.arange(2)
    expected = exporters.oracle(exporters.build(name, trained), x, y)
    return target, exporters.differences(target.gradient(x, y), expected)


@pytest.mark.parametrize(("name", "way"), EXACT)
def test_the_update_is_the_modules(tmp_path: Path, name: str, way: str) -> None:
    _, found = compared(name, way, False, tmp_path)
    assert found == []


@pytest.mark.parametrize(("name", "way", "note", "named"), CHANGED)
def test_what_an_exporter_changed_is_said_with_the_way_out(
    tmp_path: Path, name: str, way: str, note: str, named: str
) -> None:
    target, found = compared(name, way, True, tmp_path)
    assert found
    assert target.fidelity[0].id == note or note == "LA914"
    said = next(n for n in target.fidelity if n.id == note)
    assert named in said.message
    assert "optimize=False" in said.hint or "--trained" in said.hint


def test_names_that_clients_train_reach_the_target(tmp_path: Path) -> None:
    path = exporters.hand_over(exporters.build("prompt", True), "legacy", tmp_path)
    target = load(path, trained=["gain", "prompt"])
    x, y = torch.rand(2, *exporters.SHAPE), torch.arange(2)
    assert exporters.differences(target.gradient(x, y), exporters.oracle(exporters.build("prompt", True), x, y)) == []
    assert "LA914" not in {note.id for note in target.fidelity}


def test_the_oracle_sees_what_differs() -> None:
    """The comparison itself: a missing, an added, a changed and a transposed tensor."""
    one, other = torch.rand(3, 2), torch.rand(4)
    assert exporters.differences({"a": one, "b": other}, {"a": one, "b": other}) == []
    assert exporters.differences({"x": one.t().contiguous(), "b": other}, {"a": one, "b": other}) == []
    assert exporters.differences({"a": one}, {"a": one, "b": other}) == ["b is not trained"]
    assert exporters.differences({"a": one, "b": other}, {"a": one}) == ["b is trained beside"]
    assert "a is off by" in exporters.differences({"a": one * 1.01, "b": other}, {"a": one, "b": other})[0]


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("way", exporters.WAYS)
@pytest.mark.parametrize("name", exporters.ARCHITECTURES)
def test_no_difference_is_silent(tmp_path: Path, name: str, way: str, trained: bool) -> None:
    if (name, way) in UNSUPPORTED:
        with pytest.raises((ModelError, torch.jit.TracingCheckError)):
            handed_over(name, way, trained, tmp_path)
        return
    target, found = compared(name, way, trained, tmp_path)
    assert not found or SAID & {note.id for note in target.fidelity}, found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["legacy_faithful", "dynamo_unoptimised"])
@pytest.mark.parametrize("name", exporters.ARCHITECTURES)
def test_the_recipes_keep_every_tensor(tmp_path: Path, name: str, way: str) -> None:
    """The way out that a note names gives the module's update without such a note."""
    target, found = compared(name, way, True, tmp_path)
    if (name, way) == ("prompt", "legacy_faithful"):  # the legacy file cannot tell parameters from buffers at the input
        assert "LA914" in {note.id for note in target.fidelity}
        return
    assert found == []
    assert not {"LA900", "LA901"} & {note.id for note in target.fidelity}
