"""Whether a network is small: then a step of it is overhead rather than arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from leakaudit.target.dispatch import DispatchMode
from leakaudit.target.target import Target
from leakaudit.target.trace import usable_batch_size

SMALL_PARAMETERS = 1_000_000
SMALL_FLOPS = 20_000_000
"""A network below both is small: of a forward pass per sample."""


class _Counter(DispatchMode):
    """Operations by torch's own table; its own counter would import torch's compiler."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += int(count(*args, **(kwargs or {}), out_val=result))
        return result


def is_small(target: Target) -> bool:
    """By the number of parameters and the operations of a forward pass; by no clock, so the same on every machine."""
    if sum(p.numel() for p in target.parameters.values()) > SMALL_PARAMETERS:
        return False
    like = next(iter(target.parameters.values()))
    sample = torch.zeros((usable_batch_size(target), *target.image_shape), dtype=like.dtype, device=like.device)
    with torch.no_grad(), _Counter() as counter:
        target.logits(sample)
    return bool(counter.operations < SMALL_FLOPS * len(sample))
