"""Whether a network is small: then a step of it is overhead rather than arithmetic."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from leakaudit.target.target import Target
from leakaudit.target.trace import usable_batch_size

SMALL_PARAMETERS = 1_000_000
SMALL_FLOPS = 20_000_000
"""A network below both is small: of a forward pass per sample."""


def is_small(target: Target) -> bool:
    """By the number of parameters and the operations of a forward pass; by no clock, so the same on every machine."""
    if sum(p.numel() for p in target.parameters.values()) > SMALL_PARAMETERS:
        return False
    like = next(iter(target.parameters.values()))
    sample = torch.zeros((usable_batch_size(target), *target.image_shape), dtype=like.dtype, device=like.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        target.logits(sample)
    return bool(counter.get_total_flops() < SMALL_FLOPS * len(sample))
