"""Trained tensors that have no gradient at these weights, whatever the samples, and will have one later.

An adapter (LoRA, ``y = (W + s B A) x``) begins with ``B = 0``, so that ``∂ℓ/∂A = s Bᵀ … `` is exactly zero in the first
step of the first round. That is no sign that A gives nothing away: as soon as B has moved, the rows of ``∂ℓ/∂A`` lie in
the span of the layer's inputs.

Found by experiment: tensors without a gradient on random samples, that have one once the trained tensors that are zero
everywhere are moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.target.target import Target

STEP = 0.01
"""Standard deviation by which tensors of zeros are moved; chosen, any that is not zero will do."""


def resting(target: Target) -> tuple[str, ...]:
    """Names of the trained tensors that have no gradient only because others are zero; none where that is not known."""
    weights = {name: tensor.detach() for name, tensor in target.parameters.items()}
    zero = [name for name, tensor in weights.items() if tensor.dim() > 1 and not bool(tensor.any())]
    if not zero:
        return ()
    generator = torch.Generator().manual_seed(0)
    moved = dict(weights)
    for name in zero:
        moved[name] = STEP * torch.randn(weights[name].shape, generator=generator).to(weights[name])
    try:
        now, later = (_gradient(target, at) for at in (weights, moved))
    except RuntimeError:
        return ()
    return tuple(name for name in weights if not bool(now[name].any()) and bool(later[name].any()))


def _gradient(target: Target, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of random samples, the same every time."""
    generator = torch.Generator().manual_seed(0)
    size = 2 if target.batch_sizes is None else max(target.batch_sizes)
    reference = next(iter(weights.values()))
    inputs = target.domain.look_alikes(size, generator).to(reference.device)[:size]
    inputs = inputs.to(reference) if inputs.is_floating_point() else inputs
    labels = target.task.draw(len(inputs), generator).to(reference.device)
    with torch.random.fork_rng(devices=[]):
        return dict(gradient_of(target, inputs, labels, parameters=weights))
