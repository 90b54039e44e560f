"""What frameworks send is put in its place in the model, or refused with the name of what is wrong."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leakaudit.capture import record
from leakaudit.client.rounds.arrays import read_arrays
from leakaudit.client.rounds.files import load_update
from leakaudit.client.rounds.folder import began_with, read_settings, read_shared
from leakaudit.client.rounds.naming import differing
from leakaudit.errors import LeakauditError, UpdateError, UsageError
from leakaudit.target.load import load
from leakaudit.target.target import Target


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def target_of(module: nn.Module) -> Target:
    return load(copy.deepcopy(module), image_shape=(3, 8, 8), mode="train")


def trained(module: nn.Module) -> dict[str, Tensor]:
    """The state dict after a step on random samples."""
    after = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(after.parameters(), 0.1)
    nn.functional.cross_entropy(after(torch.rand(4, 3, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    return {name: tensor.detach() for name, tensor in after.state_dict().items()}


def saved(path: Path, tensors: dict[str, Any]) -> Path:
    np.savez(path, **{name: np.asarray(tensor) for name, tensor in tensors.items()})
    return path


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def after(module: nn.Module) -> dict[str, Tensor]:
    return trained(module)


def test_a_state_dict_has_its_buffers_apart(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(after, tmp_path / "client.pt")
    found = load_update(tmp_path / "client.pt", target_of(module))
    assert found.kind == "weights"
    assert list(found.tensors) == [name for name, _ in module.named_parameters()]
    assert set(found.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(torch.equal(tensor, after[name]) for name, tensor in found.tensors.items())


@pytest.mark.parametrize("prefix", ["_module.", "module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(
    prefix: str, module: nn.Module, after: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path / "u.npz", {prefix + name: tensor for name, tensor in after.items()})
    found = load_update(path, target_of(module))
    assert list(found.tensors) == [name for name, _ in module.named_parameters()]
    assert any("taken off the names" in note for note in found.notes)


@pytest.mark.parametrize("kept", ["all", "no counters", "parameters"])
@pytest.mark.parametrize("name", ["arr_{}", "{}"])
def test_lists_are_taken_in_order(
    name: str, kept: str, module: nn.Module, after: dict[str, Tensor], tmp_path: Path
) -> None:
    chosen = {
        "all": list(after.values()),
        "no counters": [tensor for own, tensor in after.items() if not own.endswith("num_batches_tracked")],
        "parameters": [after[own] for own, _ in module.named_parameters()],
    }[kept]
    path = saved(tmp_path / "u.npz", {name.format(number): tensor for number, tensor in enumerate(chosen)})
    found = load_update(path, target_of(module))
    assert all(torch.equal(tensor, after[own]) for own, tensor in found.tensors.items())
    assert "order" in found.notes[0]


def test_more_than_ten_arrays_keep_their_order(tmp_path: Path) -> None:
    path = saved(tmp_path / "u.npz", {f"arr_{number}": np.full(1, number) for number in range(12)})
    assert [int(tensor) for tensor in read_arrays(path).values()] == list(range(12))


def test_a_swapped_order_names_the_place(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    own = [after[name] for name, _ in module.named_parameters()]
    own[0], own[1] = own[1], own[0]
    path = saved(tmp_path / "u.npz", {f"arr_{number}": tensor for number, tensor in enumerate(own)})
    with pytest.raises(UpdateError, match=r"array 0 has shape \(4,\), expected \(4, 3, 3, 3\) for 0.weight"):
        load_update(path, target_of(module))


def test_counters_of_a_framework_are_left_out_and_said(
    module: nn.Module, after: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path / "u.npz", {**after, "round": np.array(3), "num_examples": np.array([40])})
    found = load_update(path, target_of(module))
    assert [note.split()[0] for note in found.notes] == ["round", "num_examples"]


def test_half_precision_is_read(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in after.items()}
    found = load_update(saved(tmp_path / "u.npz", half), target_of(module))
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
    assert all(torch.allclose(tensor, after[name], rtol=1e-3, atol=1e-3) for name, tensor in found.tensors.items())


def test_what_is_missing_is_said(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "u.npz", {name: tensor for name, tensor in after.items() if name != "4.weight"})
    found = load_update(path, target_of(module))
    assert "4.weight is not in it" in found.notes


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_quantised_payload_is_called_one(kind: Any, module: nn.Module, tmp_path: Path) -> None:
    arrays = {name: np.ones(tensor.shape, kind) for name, tensor in module.named_parameters()}
    with pytest.raises(UpdateError, match="a quantised payload") as caught:
        load_update(saved(tmp_path / "u.npz", arrays), target_of(module))
    assert "before the filter" in caught.value.hint


def broken(after: dict[str, Tensor]) -> dict[str, tuple[dict[str, Any], str]]:
    own = {name: after[name] for name in after if not name.startswith("1.")}
    return {
        "unknown": ({**own, "head.weight": np.ones((3, 3))}, "'head.weight', which is no trainable tensor"),
        "shape": ({**own, "4.weight": np.ones((5, 7))}, r"4.weight has shape \(5, 7\), expected \(5, 144\)"),
        "not finite": ({**own, "4.bias": np.full(5, np.nan)}, "4.bias holds values that are not finite"),
        "complex": ({**own, "4.bias": np.ones(5, complex)}, "4.bias holds values that are not finite real"),
        "nothing": ({"1.running_mean": np.zeros(4)}, "holds no trainable tensor"),
        "too few": ({"arr_0": np.zeros(4)}, "holds 1 arrays without names, expected 9 or 8 or 6"),
        "zero": ({name: np.zeros(tensor.shape) for name, tensor in own.items()}, "zero in every tensor"),
    }


@pytest.mark.parametrize(
    "case", ["unknown", "shape", "not finite", "complex", "nothing", "too few", "zero", "unchanged"]
)
def test_what_does_not_fit_is_named(case: str, module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    unchanged = ({n: p.detach() for n, p in module.named_parameters()}, "the model's own weights")
    arrays, words = {**broken(after), "unchanged": unchanged}[case]
    with pytest.raises(UpdateError, match=words) as caught:
        load_update(saved(tmp_path / "u.npz", arrays), target_of(module))
    assert caught.value.hint


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(60), bytes(200)])
def test_damaged_files_are_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"u{suffix}").write_bytes(content)
    with pytest.raises(LeakauditError) as caught:
        read_arrays(tmp_path / f"u{suffix}")
    assert caught.value.hint


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "u.bin").write_bytes(b"1")
    with pytest.raises(UsageError, match=r"expected .npz, .safetensors, .fobs, .pt or .pth"):
        read_arrays(tmp_path / "u.bin")


def test_a_recorded_round_is_read(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    state = dict(module.state_dict())
    place = record(state, after, out=tmp_path / "r", learning_rate=0.1, local_epochs=1, mode="train")
    assert place is not None
    assert read_shared(place, target_of(module)).kind == "weights"
    assert read_settings(place) == {"learning_rate": 0.1, "local_epochs": 1, "mode": "train"}
    delta = {name: after[name] - state[name] for name, _ in module.named_parameters()}
    place = record(state, delta=delta, out=tmp_path / "d", batch={"x": np.zeros((4, 3, 8, 8)), "y": np.arange(4)})
    assert place is not None
    assert read_shared(place, target_of(module)).kind == "delta"


def test_a_round_of_another_model_names_the_tensor(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    place = record(after, after, out=tmp_path / "r")
    assert place is not None
    target = target_of(module)
    difference = differing(began_with(place, target), target)
    assert difference is not None
    assert re.search(r"did not begin with this model: \S+ differs by", difference[0])
    assert "before.safetensors" in difference[1]


def test_folders_that_are_no_rounds_are_refused(module: nn.Module, after: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no before.safetensors"):
        read_settings(tmp_path)
    place = record(dict(module.state_dict()), after, out=tmp_path / "r", round=1)
    assert place is not None
    document = place / "round.json"
    for text, words in (
        ("{", "is no JSON"),
        ("[1]", "format is not"),
        (json.dumps({"format": "leakaudit-round", "version": 2}), "version 2, expected 1"),
        ("[" * 100_000, "is no JSON"),
    ):
        document.write_text(text, encoding="utf-8")
        with pytest.raises(UpdateError, match=words):
            read_settings(place)
    document.unlink()
    assert read_settings(place) == {}
    (place / "after.safetensors").rename(place / "later.safetensors")
    with pytest.raises(UpdateError, match="none of them, expected one of after, delta, gradient"):
        read_shared(place, target_of(module))
