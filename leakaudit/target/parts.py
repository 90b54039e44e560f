"""Large tensors looked at part by part, so that no copy of a whole one is made on the way."""

from __future__ import annotations

import torch
from torch import Tensor

ENTRIES = 1 << 22
"""Entries of a part: 32 MB in float64; chosen, far below any network whose memory matters."""


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor as flat parts (at most `ENTRIES`,), views where it is contiguous."""
    return tuple(torch.split(tensor.reshape(-1), ENTRIES))


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is infinite or no number."""
    return all(bool(torch.isfinite(part).all()) for part in parts(tensor))


def squared(tensor: Tensor) -> float:
    """The squared norm, summed in float64."""
    return sum(float(part.double().square().sum()) for part in parts(tensor.detach()))


def squared_difference(one: Tensor, other: Tensor) -> float:
    """The squared norm of the difference of two tensors of one shape, summed in float64."""
    pairs = zip(parts(one.detach()), parts(other.detach()), strict=True)
    return sum(float((a - b).double().square().sum()) for a, b in pairs)
