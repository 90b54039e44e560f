"""Clients that train a small network and record their rounds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.capture import record
from tests.conftest import smooth_images

SHAPE = (3, 12, 12)
MEAN, STD = 0.5, 0.25


def pixels(count: int = 8) -> np.ndarray[Any, Any]:
    """Private samples in 0..1, (N, 3, 12, 12)."""
    images = smooth_images(count)
    return images / 255 if images.dtype == np.uint8 else images


def mlp() -> nn.Module:
    """A network whose first layer gives single samples away."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 5))


def train(
    module: nn.Module,
    positions: Sequence[int],
    *,
    rate: float = 0.1,
    batch: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, Tensor]:
    """The state after one epoch of SGD over some of the samples; the module moves."""
    inputs = torch.from_numpy((pixels() - MEAN) / STD).float()
    labels = torch.arange(len(inputs)) % 5
    optimizer = optimizer or torch.optim.SGD(module.parameters(), rate)
    for chosen in torch.tensor(positions).split(batch or len(positions)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    return copy.deepcopy(dict(module.state_dict()))


def recorded(module: nn.Module, positions: Sequence[int], out: Path, **settings: Any) -> Path:
    """A round of a client with these samples, which it does not record unless told ``samples=True``."""
    client, before = copy.deepcopy(module), copy.deepcopy(dict(module.state_dict()))
    rate, batch = settings.get("learning_rate", 0.1), settings.get("local_batch_size")
    after = train(client, positions, rate=rate, batch=batch)
    given = {"x": pixels()[list(positions)], "y": np.arange(8)[list(positions)] % 5}
    told = {"learning_rate": rate, "local_epochs": 1, "num_examples": len(positions), **settings}
    place = record(before, after, out=out, batch=given if told.pop("samples", False) else None, **told)
    assert place is not None
    return place
