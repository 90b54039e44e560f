"""TorchScript, interpreted: traced like any module, dropout in hand, BatchNorm that keeps nothing, no files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leakaudit.errors import ModelError
from leakaudit.target import Target, load
from leakaudit.target.batchnorm import normalised
from leakaudit.target.dropout import dropout_layers, record
from leakaudit.target.inventory import inventory
from tests.target import exporters, zoo

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


def scripted(model: nn.Module, shape: tuple[int, ...], **options: object) -> Target:
    return load(torch.jit.script(model), image_shape=shape, **options)


class Loops(nn.Module):
    """Branches, loops, lists, a tuple and a string: what a script may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 12) for _ in range(3)])
        self.head, self.drop = nn.Linear(36, 4), nn.Dropout(0.25)

    def pair(self, x: Tensor) -> tuple[Tensor, int]:
        return torch.tanh(x), x.dim()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"{x.dim()} axes")
        h, parts = x.flatten(1), [torch.zeros_like(x.flatten(1))]
        for layer in self.layers:
            h, rank = self.pair(layer(h))
            if rank == 2:
                parts.append(h)
        i = 0
        while i < 2:
            parts[i] = parts[i] * 2.0
            i += 1
        return self.head(self.drop(torch.cat(parts[1:], 1)))


def test_programs_with_control_flow_are_followed() -> None:
    torch.manual_seed(0)
    model = Loops().eval()
    target = scripted(model, (3, 2, 2))
    x = torch.rand(3, 3, 2, 2)
    torch.testing.assert_close(target.logits(x), model(x))
    assert list(target.parameters) == [name for name, _ in model.named_parameters()]
    assert [layer.kind for layer in inventory(target)].count("linear") == 4
    other = {name: value.detach() * 0 for name, value in target.parameters.items()}
    assert not target.logits(x, other).any()


def test_dropout_of_a_script_is_recorded() -> None:
    target = scripted(Loops(), (3, 2, 2), mode="train")
    x = torch.rand(2, 3, 2, 2)
    with record(target.module, torch.Generator().manual_seed(1)) as steps:
        first = target.logits(x)
    assert [layer.p for layer in dropout_layers(target.module).values()] == [0.25]
    assert len(steps[0]) == 1
    with record(target.module, torch.Generator().manual_seed(1)):
        torch.testing.assert_close(target.logits(x), first)
    assert "LA913" not in {note.id for note in target.fidelity}


def test_batchnorm_of_a_script_follows_the_choice_and_keeps_nothing() -> None:
    model, shape = zoo.build("residual")
    x = torch.rand(4, *shape)
    batch = scripted(model, shape, batchnorm="batch")
    before = {name: value.clone() for name, value in batch.module.named_buffers()}
    torch.testing.assert_close(batch.logits(x), copy.deepcopy(model).train()(x))
    assert len(normalised(batch, x)) == 5
    for name, value in batch.module.named_buffers():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(scripted(model, shape).logits(x), model(x))


def test_copies_and_files(tmp_path: Path) -> None:
    model = exporters.build("lstm", True)
    torch.jit.save(torch.jit.script(model), str(tmp_path / "m.ts"))
    target = load(tmp_path / "m.ts", trust=True, image_shape=exporters.SHAPE)
    x = torch.rand(2, *exporters.SHAPE)
    assert target.format == "torchscript"
    torch.testing.assert_close(copy.deepcopy(target.module)(x), model(x))


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) + 0 * torch.from_file("somewhere", True, 4)


def test_what_reaches_files_is_refused() -> None:
    with pytest.raises(ModelError, match=r"aten::from_file"):
        scripted(Writes(), (3, 2, 2))


def test_settings_of_constants_stay_plain() -> None:
    """No step holds an object of TorchScript, which could not be copied."""
    module = scripted(Loops(), (3, 2, 2)).module

    def check(block) -> None:
        for step in block.steps:
            pickle.dumps(step.value)
            for inner in step.blocks:
                check(inner)

    check(module.leakaudit_block)
