"""Read dropout masks off the update instead of guessing them.

With ``h̃ = m ⊙ h`` feeding a linear layer, ``∂ℓ/∂W = Σ_i δ_i h̃_iᵀ``: for one sample, column j is zero exactly where
``m_j h_j = 0``. So for batch size 1 the zero columns of the weight behind a dropout *are* its mask, exactly for
activations that are never 0 (GELU, SiLU, sigmoid, tanh), and effectively for ReLU: a unit that is 0 anyway may be
masked. The rows of the weight in front of it vanish likewise. Channel dropout is read off convolutions in the same way.
A mask of several positions that share a weight (attention, tokens, a convolution's map) cannot be read.

For more samples a column is zero where all of them drop the unit: entries of every mask that need not be searched.
After several local steps it is zero where all of them drop it in every step; of one sample too no more is then read.

Which tensor reads which layer is found by experiment, not from the architecture: two updates of random inputs under a
random mask and its complement; a tensor reads the layer if its slices vanish wherever the mask does.

Zeros are a mask's only if nothing else can have made or filled them, or nothing at all is read:

* a known channel (pruning, Soteria) that turns entries of an undropped update to zero hides which ones were dropped;
* for one sample the weights of linear layers have no holes: where ``δ_i h̃_j`` is zero, the whole row or the whole
  column is. Pruned and rounded updates have holes;
* the number of zeros is plausible for the declared rate: not too small, which is noise, and, where the experiment shows
  that units are never zero by themselves, not too large;
* some layer has a dropped unit. "Nothing dropped" is likely in a small layer, and is what every noisy update shows, so
  it is believed only beside true zeros elsewhere.

There is no tolerance: noise of 1e-6 on the LeNet of `benchmarks/networks.py` already brings dropped columns to the size
of the smallest kept ones (ratio 0.9 to 9), so a gap would tell them apart only where noise hardly matters.

Fails where a defence unknown to the attacker zeroes whole slices, about as many as the rate says; noise on the readers
of one small layer alone passes for "nothing dropped". Compare Scheliga et al. 2022 (arXiv 2208.06163), who optimise all
masks; what reading gains is in `leakaudit.attacks.dia`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Generator, Tensor

from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.dropout import by_step, dropout_layers
from leakaudit.target.target import Target

IMPLAUSIBLE = 1e-6
"""Probability below which so few or so many zeros are no mask: something, likely a defence, made or filled them;
chosen, not measured."""
UNDERFLOW = 1e-30
"""Expected magnitude of an entry of the update below which a zero says nothing; chosen, above the 1e-38 where float32's
precision ends."""


@dataclass(frozen=True)
class MaskedLayer:
    """A dropout that is on in one local step of the client.

    Args:
        name: Of the layer.
        rate: Probability that an entry is zeroed.
        shape: Shape of its mask (B, …).
        step: Number of the step, from 0.
    """

    name: str
    rate: float
    shape: tuple[int, ...]
    step: int = 0

    @property
    def key(self) -> str:
        """Of its mask, ``step/layer``."""
        return f"{self.step}/{self.name}"

    @property
    def units(self) -> int:
        """Mask entries per sample."""
        return math.prod(self.shape[1:])


def masked_layers(target: Target, observation: Observation) -> tuple[MaskedLayer, ...]:
    """The dropouts that the client had on, step by step in order of execution."""
    rates = {name: layer.p for name, layer in dropout_layers(target.module).items()}
    return tuple(
        MaskedLayer(name, rates[name.partition("#")[0]], shape, step)
        for step, shapes in enumerate(observation.protocol.mask_shapes(target))
        for name, shape in shapes.items()
    )


def read_masks(
    target: Target, observation: Observation, layers: tuple[MaskedLayer, ...], generator: Generator
) -> dict[str, Tensor]:
    """What an update says of masks, by ``step/layer``: 0 where no sample keeps a unit in any step, else 1.

    For one sample and one step that is the mask, of shape ``layer.shape``; otherwise all samples and steps get one.
    Empty where the zeros of the update may be something else than masks.

    Args:
        target: The model.
        observation: The update.
        layers: From :func:`masked_layers`.
        generator: Of the random inputs and masks of the experiment.
    """
    found: dict[str, Tensor] = {}
    experiment = _Experiment(target, observation, layers, generator)
    if layers and experiment.shows_other_zeros():
        return {}
    for name in dict.fromkeys(layer.name for layer in layers):
        own = [layer for layer in layers if layer.name == name]
        readers, always_alive = experiment.readers(own[0])
        if not readers:
            continue
        slices = [_slices(observation.update[name], axis) for name, axis in readers]
        kept = torch.stack([s.ne(0).any(1) for s in slices]).any(0)
        if not _plausible(int((~kept).sum()), own, always_alive):
            return {}
        mask = kept.to(observation.update[readers[0][0]])
        for layer in own:
            found[layer.key] = mask.reshape(1, *layer.shape[1:]).expand(layer.shape).clone()
    return found if any(bool((mask == 0).any()) for mask in found.values()) else {}


def _plausible(zeros: int, steps: Sequence[MaskedLayer], always_alive: bool) -> bool:
    """Whether so many units may have been dropped by all samples in all steps; more where units are 0 by themselves."""
    rate, units = steps[0].rate ** sum(layer.shape[0] for layer in steps), steps[0].units
    few, many = float(scipy.special.bdtr(zeros, units, rate)), float(scipy.special.bdtrc(zeros - 1, units, rate))
    return few >= IMPLAUSIBLE and (many >= IMPLAUSIBLE or not always_alive)


def _has_holes(weight: Tensor) -> bool:
    """Whether an entry is zero although its row and its column are not, and say that it is large enough.

    The gradient (O, I) of a linear layer by one sample is the product of a row's and a column's factor.
    """
    size = weight.detach().double().abs()
    expected = size.amax(1, keepdim=True) * size.amax(0, keepdim=True) / size.max().clamp_min(UNDERFLOW)
    return bool(((size == 0) & (expected > UNDERFLOW)).any())


class _Experiment:
    """Updates of random inputs under masks of our own, to learn what an update of this model shows.

    Args:
        target: The model.
        observation: For the shapes and the known channel.
        layers: All dropouts that are on.
        generator: Of inputs and masks.
    """

    def __init__(
        self, target: Target, observation: Observation, layers: tuple[MaskedLayer, ...], generator: Generator
    ) -> None:
        self.target, self.observation, self.generator = target, observation, generator
        self.like = next(iter(target.parameters.values()))
        self.layers = layers

    def _update(self, inputs: Tensor, kept: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of random labels, with the units of some layers that are kept by all samples in all steps, of others all."""
        labels = self.target.task.probes(1).repeat_interleave(len(inputs), 0).to(self.like.device)
        masks = {}
        for layer in self.layers:
            mask = kept.get(layer.name, torch.ones(layer.shape[1:], dtype=torch.bool))
            masks[layer.key] = mask.to(self.like).reshape(1, *layer.shape[1:]).expand(layer.shape)
        return self.observation.protocol.update(self.target, Play(inputs, labels, masks=by_step(masks)))

    def _inputs(self) -> Tensor:
        shape = (self.observation.batch_size, *self.observation.domain.shape)
        return torch.randn(shape, generator=self.generator).to(self.like)

    def shows_other_zeros(self) -> bool:
        """Whether the observed update has zeros that no dropout makes, or its known channel would make some."""
        update, observed = self._update(self._inputs(), {}), self.observation.update
        if self.observation.channel is not None:
            shared = self.observation.shared(update)
            if any(bool(((g == 0) & (update[name] != 0)).any()) for name, g in shared.items()):
                return True
        products = [n for n in observed if observed[n].dim() == 2 and not _has_holes(update[n])]
        alone = self.observation.batch_size == 1 and self.observation.protocol.one_gradient
        return alone and any(_has_holes(observed[name]) for name in products)

    def readers(self, layer: MaskedLayer) -> tuple[list[tuple[str, int]], bool]:
        """Tensors and axes whose slices vanish exactly where this layer's mask does.

        Returns:
            They, and whether every kept unit showed in one of them: its activation is not zero by itself.
        """
        inputs = self._inputs()
        pattern = torch.rand((1, *layer.shape[1:]), generator=self.generator).to(self.like) < 0.5
        updates = [self._update(inputs, {layer.name: kept}) for kept in (pattern, ~pattern)]
        flat, readers = pattern.flatten(), []
        shown = torch.zeros_like(flat)
        for name in self.observation.update:
            for axis in (0, 1):
                if axis >= updates[0][name].dim() or updates[0][name].shape[axis] != layer.units:
                    continue
                first, second = (_slices(update[name], axis).ne(0).any(1) for update in updates)
                if not bool((first & ~flat).any() or (second & flat).any()) and bool(first.any() and second.any()):
                    readers.append((name, axis))
                    shown |= first | second
        return readers, bool(shown.all())


def _slices(tensor: Tensor, axis: int) -> Tensor:
    """The slices along an axis as rows (units, entries)."""
    return tensor.detach().movedim(axis, 0).reshape(tensor.shape[axis], -1)


def draw_masks(
    layers: tuple[MaskedLayer, ...], like: Tensor, generator: Generator, possible: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Bernoulli(1 − p) start for the masks that are optimised, by ``step/layer``; zero where no sample keeps a unit."""
    drawn = {}
    for layer in layers:
        mask = (torch.rand(layer.shape, generator=generator) >= layer.rate).to(like)
        drawn[layer.key] = mask * possible[layer.key] if layer.key in possible else mask
    return drawn
