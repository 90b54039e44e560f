"""Integers of a module or a program become entries of a row: the same outputs and gradients, or a refusal by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from leakaudit.client.readers.base import reader_for
from leakaudit.domains.table import Table
from leakaudit.errors import ModelError
from leakaudit.target import Target, load
from tests.target.columns import CODES, LEVELS, Embedded, Shared, drawn, rows_of


def program(module: nn.Module, given: tuple[Tensor, ...], folder: Path) -> Target:
    batch = torch.export.Dim("N")
    shapes = tuple({0: batch} for _ in given)
    torch.export.save(torch.export.export(module.eval(), given, dynamic_shapes=shapes), folder / "net.pt2")
    return load(folder / "net.pt2", trust=True)


@pytest.mark.parametrize("kind", [Embedded, Shared])
@pytest.mark.parametrize("way", ["module", "program"])
def test_outputs_and_gradients_are_those_of_the_integers(kind: type[nn.Module], way: str, tmp_path: Path) -> None:
    codes, numbers = drawn(6)
    plain, module = kind().eval(), kind()
    target = load(module) if way == "module" else program(module, (codes[:2], numbers[:2]), tmp_path)
    assert isinstance(target.domain, Table)
    assert [(c.name, c.width) for c in target.domain.columns[:3]] == list(zip(CODES, LEVELS, strict=True))
    labels = torch.arange(6) % 2
    expected = plain(codes, numbers)
    assert torch.allclose(target.logits(rows_of(codes, numbers)), expected, atol=1e-6)
    wanted = torch.autograd.grad(cross_entropy(expected, labels), list(plain.parameters()))
    found = target.gradient(rows_of(codes, numbers), labels)
    for (name, _), gradient in zip(plain.named_parameters(), wanted, strict=True):
        assert torch.allclose(found[name], gradient, atol=1e-6), name


def test_a_batch_is_read_by_the_names_of_the_arguments(tmp_path: Path) -> None:
    codes, numbers = drawn(6)
    np.savez(tmp_path / "batch.npz", codes=codes.numpy(), numbers=numbers.numpy(), y=np.arange(6) % 2)
    target, batch = reader_for(load(Embedded())).fitted(tmp_path / "batch.npz")
    assert torch.allclose(batch.images, rows_of(codes, numbers))
    assert "from the inputs codes, numbers" in target.domain.told("flat", [14])


class Padded(nn.Module):
    """A row that no gradient reaches, and one integer without an axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(4, 3, padding_idx=1), nn.Linear(5, 2)

    def forward(self, numbers: Tensor, code: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([self.table(code), numbers], 1))
        return result


def test_the_padding_row_has_no_gradient_here_either() -> None:
    code, numbers = torch.tensor([0, 1, 3]), drawn(3)[1]
    plain, labels = Padded(), torch.tensor([0, 1, 0])
    expected = plain(numbers, code)
    (wanted,) = torch.autograd.grad(cross_entropy(expected, labels), [plain.table.weight])
    target = load(Padded())
    rows = torch.cat([numbers, torch.nn.functional.one_hot(code, 4)], 1)[:, None, None]
    assert torch.allclose(target.logits(rows), expected, atol=1e-6)
    assert torch.allclose(target.gradient(rows, labels)["table.weight"], wanted, atol=1e-7)
    assert not wanted[1].any()


class Counted(nn.Module):
    """Takes its integers for numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(4, 3), nn.Linear(6, 2)

    def forward(self, code: Tensor, numbers: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([self.table(code), code[:, None].float(), numbers], 1))
        return result


def test_integers_that_are_used_otherwise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="integers are used by"):
        program(Counted(), (torch.tensor([0, 1]), drawn(2)[1]), tmp_path)


class Odd(nn.Module):
    """Uses its integers in a way that has no column."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        norm, often = (1 if way == "norm" else None), way == "often"
        self.table = nn.Embedding(9, 3, max_norm=norm, scale_grad_by_freq=often)
        self.head = nn.Linear(5, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        used = codes[:, 0]
        if self.way == "sum":
            used = codes[:, 0] + codes[:, 1]
        elif self.way == "joined":
            used = torch.cat([codes[:, :1], torch.zeros_like(codes[:, :1].detach().as_subclass(Tensor))], 1)[:, 0]
        elif self.way == "read":
            used = codes[:, 0] + int(codes[0, 0])
        elif self.way == "set":
            codes[:, 0] = 0
            used = codes[:, 0]
        result: Tensor = self.head(torch.cat([self.table(used), numbers], 1))
        return result


@pytest.mark.parametrize("way", ["sum", "joined", "read", "set", "norm", "often"])
def test_integers_that_no_column_stands_for_are_never_misread(way: str) -> None:
    assert isinstance(load(Odd("as others do")).domain, Table)
    with pytest.raises(ModelError, match="nor integers that are looked up in embeddings"):
        load(Odd(way))


class Beside(nn.Module):
    """A picture and an integer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.table, self.head = nn.Conv2d(1, 2, 3), nn.Embedding(4, 3), nn.Linear(2 * 36 + 3, 2)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([self.inside(image).flatten(1), self.table(code)], 1))
        return result


def test_a_picture_beside_an_integer_in_a_program(tmp_path: Path) -> None:
    image, code = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 3])
    module = Beside()
    target = program(module, (image, code), tmp_path)
    held = {"image": image.numpy(), "code": code.numpy(), "y": np.arange(3) % 2}
    target, batch = reader_for(target).fitted(held)
    assert target.domain.blocks == ((64, 68),)
    assert torch.allclose(target.logits(target.domain.encode(batch.images)), module(image, code), atol=1e-6)


class Wide(nn.Module):
    """Eleven integers of 10,000 levels each beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10_000, 1) for _ in range(11))
        self.head = nn.Linear(11 + 3, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        looked_up = [table(codes[:, place]) for place, table in enumerate(self.tables)]
        result: Tensor = self.head(torch.cat([*looked_up, numbers], 1))
        return result


def test_a_row_that_is_too_wide_is_refused_of_a_module_as_of_a_file() -> None:
    with pytest.raises(ModelError, match="Wide: its 14 columns make rows of 110003 entries, more than 100000"):
        load(Wide())
