"""Large tensors looked at part by part, so that no copy of a whole one is made on the way."""

from __future__ import annotations

import torch
from torch import Tensor

ENTRIES = 1 << 22
"""Entries of a part: 32 MB in float64; chosen, far below any network whose memory matters."""


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor as flat parts (at most `ENTRIES`,), views where it is contiguous."""
    return tensor.reshape(-1).split(ENTRIES)


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is infinite or no number."""
    return all(bool(torch.isfinite(part).all()) for part in parts(tensor))
