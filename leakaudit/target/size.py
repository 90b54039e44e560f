"""Whether a network is small: then a step of it is overhead rather than arithmetic."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from leakaudit.target.dispatch import DispatchMode
from leakaudit.target.target import Target
from leakaudit.target.trace import usable_batch_size

SMALL_PARAMETERS = 1_000_000
SMALL_FLOPS = 20_000_000
"""A network below both is small: of a forward pass per sample."""
TINY_FLOPS = 5_000_000
"""Operations of the forward pass of a batch, up to which oneDNN takes longer to be handed a convolution than it saves;
chosen from the twelve networks of `benchmarks/results/small_convolutions.md`."""


class _Counter(DispatchMode):
    """Operations, a product and a sum each, as torch counts them; its own counter would import compilers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        if kind in FACTORS:
            self.operations += 2 * result.numel() * args[FACTORS[kind]].shape[-1]
        elif kind in CONVOLUTIONS:
            self.operations += _of_convolution(args[0], args[1], result, transposed=bool(args[6]))
        return result


aten = torch.ops.aten
FACTORS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.baddbmm: 1}
"""Products of matrices, and the position of their first factor."""
CONVOLUTIONS = {aten.convolution, aten._convolution}


def _of_convolution(inputs: Tensor, weight: Tensor, outputs: Tensor, *, transposed: bool) -> int:
    """Operations of a convolution: the whole weight at each place of its outputs, or of its inputs if transposed."""
    places = inputs if transposed else outputs
    return 2 * len(places) * prod(places.shape[2:]) * weight.numel()


def is_small(target: Target) -> bool:
    """By the number of parameters and the operations of a forward pass; by no clock, so the same on every machine."""
    return _few_parameters(target) and forward_operations(target) < SMALL_FLOPS


def is_tiny(target: Target, samples: int) -> bool:
    """The same of a step of a whole batch, in which even a single convolution is overhead."""
    return _few_parameters(target) and forward_operations(target) * samples < TINY_FLOPS


def _few_parameters(target: Target) -> bool:
    return sum(p.numel() for p in target.parameters.values()) <= SMALL_PARAMETERS


def forward_operations(target: Target) -> float:
    """Operations of a forward pass per sample."""
    like = next(iter(target.parameters.values()))
    sample = torch.zeros((usable_batch_size(target), *target.image_shape), dtype=like.dtype, device=like.device)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _Counter() as counter:
        target.logits(sample)
    return float(counter.operations / len(sample))
