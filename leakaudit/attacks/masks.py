"""Read dropout masks off the update instead of guessing them.

With ``h̃ = m ⊙ h`` feeding a linear layer, ``∂ℓ/∂W = Σ_i δ_i h̃_iᵀ``: for one sample, column j is zero exactly where
``m_j h_j = 0``. So for batch size 1 the zero columns of the weight behind a dropout *are* its mask, exactly for
activations that are never 0 (GELU, SiLU, sigmoid, tanh), and effectively for ReLU: a unit that is 0 anyway may be
masked. The rows of the weight in front of it vanish likewise. Channel dropout is read off convolutions in the same way.
A mask of several positions that share a weight (attention, tokens, a convolution's map) cannot be read.

For more samples a column is zero where all of them drop the unit: a start for the masks, not their value.

Which tensor reads which layer is found by experiment, not from the architecture: two updates of random inputs under a
random mask and its complement; a tensor reads the layer if its slices vanish wherever the mask does. Reads nothing from
an update that has too few zeros for the declared rate in any layer: a defence has filled them.

Compare Scheliga et al. 2022 (arXiv 2208.06163), who optimise the masks and reach 19.8 dB where reading them gives 33.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Generator, Tensor

from leakaudit.observation import Observation
from leakaudit.target.dropout import Dropout, dropout_layers, injected_masks, record
from leakaudit.target.target import Target

IMPLAUSIBLE = 1e-6
"""Probability below which so few zeros are no mask: something, a defence most likely, has filled them."""


@dataclass(frozen=True)
class MaskedLayer:
    """A dropout that is on in the client's model.

    Args:
        name: Key of its mask.
        rate: Probability that an entry is zeroed.
        shape: Shape of its mask (B, …).
    """

    name: str
    rate: float
    shape: tuple[int, ...]

    @property
    def units(self) -> int:
        """Mask entries per sample."""
        return math.prod(self.shape[1:])


def masked_layers(target: Target, observation: Observation) -> tuple[MaskedLayer, ...]:
    """The dropouts that the client had on, in order of execution, from one forward pass of zeros."""
    layers = {name: layer for name, layer in dropout_layers(target.module).items() if layer.p > 0}
    if observation.protocol.mode != "train" or not layers:
        return ()
    parameter = next(iter(target.parameters.values()))
    zeros = torch.zeros((observation.batch_size, *observation.space.shape))
    before = {name: layer.training for name, layer in layers.items()}
    with torch.no_grad(), record(target.module, torch.Generator()) as masks:
        _switch(layers, dict.fromkeys(layers, True))
        try:
            target.logits(zeros.to(parameter.device, parameter.dtype))
        finally:
            _switch(layers, before)
    return tuple(MaskedLayer(name, layers[name.partition("#")[0]].p, tuple(mask.shape)) for name, mask in masks.items())


def _switch(layers: Mapping[str, Dropout], training: Mapping[str, bool]) -> None:
    for name, layer in layers.items():
        layer.train(training[name])


def read_masks(
    target: Target, observation: Observation, layers: tuple[MaskedLayer, ...], generator: Generator
) -> dict[str, Tensor]:
    """What the update says about the masks, by layer: 1 where some sample keeps the unit, 0 where none does.

    For batch size 1 that is the mask, of shape ``layer.shape``; otherwise every sample gets the same.

    Args:
        target: The model.
        observation: The update.
        layers: From :func:`masked_layers`.
        generator: Of the random inputs and masks of the experiment.
    """
    found: dict[str, Tensor] = {}
    for layer in layers:
        readers = _readers(target, observation, layer, layers, generator)
        if not readers:
            continue
        kept = torch.stack([_alive(observation.update[name], axis) for name, axis in readers]).any(0)
        zeros, rate = int((~kept).sum()), layer.rate**observation.batch_size
        if float(binom.cdf(zeros, layer.units, rate)) < IMPLAUSIBLE:
            return {}
        mask = kept.to(observation.update[readers[0][0]])
        found[layer.name] = mask.reshape(1, *layer.shape[1:]).expand(layer.shape).clone()
    return found


def _readers(
    target: Target,
    observation: Observation,
    layer: MaskedLayer,
    layers: tuple[MaskedLayer, ...],
    generator: Generator,
) -> list[tuple[str, int]]:
    """Tensors and axes whose slices vanish exactly where this layer's mask does."""
    parameter = next(iter(target.parameters.values()))
    size = observation.batch_size
    inputs = torch.randn((size, *observation.space.shape), generator=generator).to(parameter)
    labels = torch.zeros(size, dtype=torch.long, device=parameter.device)
    pattern = torch.rand((1, *layer.shape[1:]), generator=generator).to(parameter) < 0.5
    ones = {other.name: parameter.new_ones(other.shape) for other in layers}
    updates = []
    for kept in (pattern, ~pattern):
        masks = {**ones, layer.name: kept.to(parameter).expand(layer.shape)}
        with injected_masks(target.module, masks):
            updates.append(target.gradient(inputs, labels))
    flat = pattern.flatten()
    readers = []
    for name in observation.update:
        for axis in (0, 1):
            if axis >= updates[0][name].dim() or updates[0][name].shape[axis] != layer.units:
                continue
            first, second = (_alive(update[name], axis) for update in updates)
            if not bool((first & ~flat).any() or (second & flat).any()) and bool(first.any() and second.any()):
                readers.append((name, axis))
    return readers


def _alive(tensor: Tensor, axis: int) -> Tensor:
    """Whether any entry of each slice along an axis is not exactly zero."""
    return tensor.detach().movedim(axis, 0).reshape(tensor.shape[axis], -1).ne(0).any(1)


def draw_masks(
    layers: tuple[MaskedLayer, ...], like: Tensor, generator: Generator, possible: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Bernoulli(1 − p) start for the masks that are to be optimised, zero where no sample keeps the unit."""
    drawn = {}
    for layer in layers:
        mask = (torch.rand(layer.shape, generator=generator) >= layer.rate).to(like)
        drawn[layer.name] = mask * possible[layer.name] if layer.name in possible else mask
    return drawn
