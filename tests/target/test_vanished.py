"""Dropout that an export in eval mode has removed: told by the gap that it leaves, and not told where none is."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import leakaudit


class Net(nn.Module):
    """Layers under a name, and a head of their own."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = nn.Sequential(*layers, nn.Flatten()), nn.Linear(144, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


def notes(layers: list[nn.Module], path: Path, default: bool) -> list[str]:
    """What is said of dropout that is gone, in a file of these layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net(*layers).eval(), (torch.rand(1, 3, 8, 8),), str(path), dynamo=default, verbose=False)
    return [note.message for note in leakaudit.load(path).fidelity if note.id == "LA902"]


@pytest.mark.parametrize("default", [False, True], ids=["torchscript", "default"])
def test_a_gap_in_the_numbers_names_the_module(default: bool, tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(0.5)]
    (message,) = notes(layers, tmp_path / "net.onnx", default)
    assert "holds nothing of features.2:" in message


@pytest.mark.parametrize("default", [False, True], ids=["torchscript", "default"])
def test_nothing_is_said_where_nothing_is_missing(default: bool, tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if default else nn.Tanh(), nn.ReLU()]
    assert notes(layers, tmp_path / "net.onnx", default) == []


def test_networks_that_usually_have_dropout_are_told_of(tmp_path: Path) -> None:
    (message,) = notes([nn.Conv2d(3, 4, 3), nn.GELU()], tmp_path / "net.onnx", False)
    assert "usually trained with dropout" in message


def test_numbers_of_any_size_cost_nothing(tmp_path: Path) -> None:
    """A file may give its nodes whatever names it likes."""
    notes([nn.Conv2d(3, 4, 3), nn.ReLU()], tmp_path / "net.onnx", False)
    model = onnx.load(str(tmp_path / "net.onnx"))
    for node, number in zip(model.graph.node, ("9" * 11, "9" * 5000, "\N{SUPERSCRIPT TWO}"), strict=False):
        node.name = f"/a/a.{number}/Relu"
    onnx.save(model, str(tmp_path / "net.onnx"))
    assert leakaudit.load(tmp_path / "net.onnx").parameters
