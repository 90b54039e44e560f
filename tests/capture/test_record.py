"""What a recorder writes, that it changes nothing, and that it never ends a training."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from leakaudit.capture import CaptureWarning, flower_mod, pytorch_hook, record


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return {"fc.weight": np.ones((2, 3), np.float32), "bn.num_batches_tracked": np.array(4)}


def test_a_round_is_numbers_and_a_document(tmp_path: Path) -> None:
    after = {name: value + 1 for name, value in arrays().items()}
    place = record(arrays(), after, out=tmp_path / "round-1", learning_rate=np.float32(0.5), local_epochs=2)
    assert place == tmp_path / "round-1"
    assert place.stat().st_mode & 0o777 == 0o700, "weights and samples are for their owner"
    assert sorted(file.name for file in place.iterdir()) == ["after.safetensors", "before.safetensors", "round.json"]
    document = json.loads((place / "round.json").read_text(encoding="utf-8"))
    assert document == {
        "format": "leakaudit-round",
        "version": 1,
        "kind": "after",
        "learning_rate": 0.5,
        "local_epochs": 2,
    }
    found = load_file(str(place / "after.safetensors"))
    assert all(np.array_equal(found[name], value) for name, value in after.items())
    assert found["bn.num_batches_tracked"].shape == ()


def test_tensors_of_torch_and_lists_are_taken(tmp_path: Path) -> None:
    before = {"w": torch.zeros(2, 2, dtype=torch.bfloat16), "t": torch.arange(6).reshape(2, 3).t()}
    place = record(before, delta=[torch.ones(2, requires_grad=True), np.zeros(3)], out=tmp_path / "r")
    assert place is not None
    found = load_file(str(place / "before.safetensors"))
    assert found["w"].dtype == np.float32
    assert np.array_equal(found["t"], np.arange(6).reshape(2, 3).T)
    assert {n: a.shape for n, a in load_file(str(place / "delta.safetensors")).items()} == {
        "arr_0": (2,),
        "arr_1": (3,),
    }


def test_a_second_round_overwrites_nothing(tmp_path: Path) -> None:
    places = [record(arrays(), arrays(), out=tmp_path / "r", round=number) for number in (1, 2, 3)]
    assert [place.name for place in places if place] == ["r", "r-2", "r-3"]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "one of after, delta and gradient, got none"),
        ({"after": {}, "delta": {}}, "got after, delta"),
        ({"after": {"w": np.array(["text"])}}, "w holds <U4, expected numbers"),
        ({"after": {"w": object()}}, "expected numbers"),
    ],
)
def test_what_cannot_be_recorded_is_a_warning(tmp_path: Path, keywords: dict[str, Any], words: str) -> None:
    with pytest.warns(CaptureWarning, match=words):
        assert record(arrays(), out=tmp_path / "r", **keywords) is None
    assert not list(tmp_path.iterdir())


def test_a_setting_that_nobody_knows_is_named(tmp_path: Path) -> None:
    with pytest.warns(CaptureWarning, match="epochs is left out: known are framework"):
        place = record(arrays(), arrays(), out=tmp_path / "r", epochs=3)
    assert place is not None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.warns(CaptureWarning, match="round not recorded"):
        assert record(arrays(), arrays(), out=tmp_path / "file" / "r") is None


def test_importing_loads_nothing_heavy() -> None:
    code = "import leakaudit.capture, sys; print(sorted({'torch', 'numpy', 'flwr', 'nvflare'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def train(module: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, epochs: int) -> None:
    module.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()


def prepared() -> tuple[nn.Module, DataLoader[Any], torch.optim.Optimizer]:
    module = network()
    data = TensorDataset(torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3)
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    return module, loader, optimizer


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_training_loop_tells_its_settings_order_and_masks(tmp_path: Path) -> None:
    module, loader, optimizer = prepared()
    before = weights(module)
    with pytorch_hook(module, tmp_path / "r", optimizer=optimizer, loader=loader):
        train(module, loader, optimizer, 2)
    document = json.loads((tmp_path / "r" / "round.json").read_text(encoding="utf-8"))
    expected = {
        "kind": "after",
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-3,
        "local_epochs": 2,
        "local_batch_size": 4,
        "local_steps": 4,
        "num_examples": 8,
        "drop_last": False,
        "mode": "train",
        "buffers": ["1.running_mean", "1.running_var", "1.num_batches_tracked"],
    }
    assert document.items() >= expected.items()
    sent = load_file(str(tmp_path / "r" / "before.safetensors"))
    assert all(np.array_equal(sent[name], tensor) for name, tensor in before.items())
    order = np.load(tmp_path / "r" / "batch.npz")["order"]
    assert order.shape == (2, 8)
    assert all(sorted(own) == list(range(8)) for own in order.tolist())
    masks = load_file(str(tmp_path / "r" / "masks.safetensors"))
    assert list(masks) == ["0/3", "1/3", "2/3", "3/3"]
    assert all(mask.shape == (4, 8) for mask in masks.values())


def test_the_recorded_training_is_the_one_that_was_run(tmp_path: Path) -> None:
    """Replayed with the order and the masks of the record, it ends at the same weights."""
    module, loader, optimizer = prepared()
    with pytorch_hook(module, tmp_path / "r", optimizer=optimizer, loader=loader):
        train(module, loader, optimizer, 2)
    order = np.load(tmp_path / "r" / "batch.npz")["order"]
    masks = load_file(str(tmp_path / "r" / "masks.safetensors"))
    again, data, replay = network(), loader.dataset, torch.optim.SGD([torch.zeros(1)], 0.1)
    again.train()
    replay = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    first, norm, relu, last = (again[i] for i in (0, 1, 2, 4))
    for number in range(4):
        chosen = order[number // 2].reshape(2, 4)[number % 2]
        inputs = torch.stack([data[int(i)][0] for i in chosen])
        labels = torch.stack([data[int(i)][1] for i in chosen])
        kept = torch.from_numpy(masks[f"{number}/3"]).float()
        replay.zero_grad()
        nn.functional.cross_entropy(last(relu(norm(first(inputs))) * kept * 2), labels).backward()
        replay.step()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)


def test_the_hook_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    module, loader, optimizer = prepared()
    other, others, plain = prepared()
    sampler = loader.batch_sampler.sampler
    torch.manual_seed(5)
    with pytorch_hook(module, tmp_path / "r", optimizer=optimizer, loader=loader):
        train(module, loader, optimizer, 1)
    torch.manual_seed(5)
    train(other, others, plain, 1)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in module.state_dict().items())
    assert loader.batch_sampler.sampler is sampler
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_an_error_of_the_training_goes_through(tmp_path: Path) -> None:
    module, _, _ = prepared()
    with pytest.raises(RuntimeError, match="of the user"), pytorch_hook(module, tmp_path / "r"):
        raise RuntimeError("of the user")
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_recorder_does_not(tmp_path: Path) -> None:
    module, loader, optimizer = prepared()
    with warnings.catch_warnings(record=True) as seen, pytorch_hook(module, "/dev/null/r", optimizer=optimizer):
        warnings.simplefilter("always")
        train(module, loader, optimizer, 1)
    assert [w.category for w in seen] == [CaptureWarning]


class Odd(nn.Module):
    """Calls its dropout by keyword, so that a hook sees no inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(input=x))


def test_what_a_hook_cannot_read_does_not_end_the_training(tmp_path: Path) -> None:
    """A layer that is called in another way, and a sampler of something else than numbers."""
    module = Odd()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    data = {"a": torch.randn(6), "b": torch.randn(6)}

    class Named(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
            return data[name], torch.tensor(1)

    loader = DataLoader(Named(), sampler=["a", "b"], batch_size=2)
    hook = pytorch_hook(module, tmp_path / "r", optimizer=optimizer, loader=loader)
    with pytest.warns(CaptureWarning, match="round not recorded"), hook:
        train(module, loader, optimizer, 1)
    document = json.loads((tmp_path / "r" / "round.json").read_text(encoding="utf-8"))
    assert document["local_steps"] == 1, "what could be seen is recorded"


def test_a_mod_that_was_never_made_warns_and_lets_the_training_go_on() -> None:
    with pytest.warns(CaptureWarning, match="not mods=.flower_mod."):
        assert flower_mod("message", "context", lambda message, context: (message, context)) == ("message", "context")
