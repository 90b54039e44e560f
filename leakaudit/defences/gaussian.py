r"""Clipping and Gaussian noise: DP-SGD's mechanism, or either half of it alone.

.. math:: \tilde g = \frac{1}{B}\sum_{i=1}^{B} g_i \min(1, C/\|g_i\|) + \mathcal N(0, \sigma^2 I)

(Abadi et al. 2016, arXiv 1607.00133). With both halves the step is a Gaussian mechanism with noise multiplier
:math:`z = \sigma B / C` (per sample) or :math:`z = \sigma / C` (per update), whose privacy loss is accounted by
Google's `dp-accounting` for the stated sampling rate and number of steps. Clipping alone only rescales; noise alone is
unaccounted, since nothing bounds the gradient: neither has a bound, and none is printed.

The attacker knows C and σ: the clipping is part of the match (exactly for one sample), and the standard preset chooses
the weight of its prior on the noisy update. One update is one draw of the noise; averaging over rounds is not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update, through
from leakaudit.observation import Channel, Observation
from leakaudit.target.target import Target

TINY = 1e-38
"""Squared norm below which a gradient counts as zero: where the precision of float32 ends."""


@dataclass(frozen=True, kw_only=True)
class GaussianMechanism(Defence):
    """Clip, then add noise.

    Args:
        clip: Largest norm C of a gradient; 0 does not clip.
        noise: Standard deviation σ of the noise on every entry of the shared mean gradient; 0 adds none.
        per: ``sample`` clips every sample's gradient (DP-SGD), ``update`` the client's mean gradient.
        rate: Probability that a sample (or client) takes part in a step, for ε.
        steps: Steps of the whole training, for ε.
        delta: δ for which ε is stated; as in the experiments of Abadi et al. 2016, arXiv 1607.00133.
    """

    clip: float = 0.0
    noise: float = 0.0
    per: str = "sample"
    rate: float = 1.0
    steps: int = 1
    delta: float = 1e-5

    name: ClassVar[str] = "dp"
    title: ClassVar[str] = "Clipping and Gaussian noise"
    adaptive: ClassVar[str] = "clips its own gradient alike and weighs its prior by the noisy match"
    reference: ClassVar[str] = "Abadi et al., Deep learning with differential privacy, CCS 2016, arXiv 1607.00133"

    def __post_init__(self) -> None:
        if self.clip < 0 or self.noise < 0 or self.clip == self.noise == 0:
            raise ValueError(f"clip is {self.clip:g} and noise {self.noise:g}, expected one of them above 0")
        if self.per not in ("sample", "update"):
            raise ValueError(f"per is {self.per!r}, expected sample or update")
        if not 0 < self.rate <= 1 or self.steps < 1 or not 0 < self.delta < 1:
            raise ValueError(f"rate={self.rate:g}, steps={self.steps}, delta={self.delta:g}: expected probabilities")

    @property
    def accounted(self) -> bool:
        """Whether the mechanism has a privacy guarantee at all."""
        return self.clip > 0 and self.noise > 0

    def multiplier(self, batch_size: int) -> float:
        """Noise multiplier z: standard deviation over sensitivity (one sample, or one client, added or removed)."""
        return self.noise * (batch_size if self.per == "sample" else 1) / self.clip

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Clip where wanted, then add noise where wanted."""
        shared = update
        if self.clip > 0 and self.per == "update":
            shared = clipped(update, self.clip)
        elif self.clip > 0:
            shared = _mean([clipped({n: g[n] for n in update}, self.clip) for g in step.per_sample()])
        if self.noise == 0:
            return shared
        return {name: g + self.noise * torch.randn(g.shape, generator=generator).to(g) for name, g in shared.items()}

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """Clip the guess's gradient too, where that is what the client does; the rest is left to the prior."""
        if self.clip == 0 or (self.per == "sample" and observation.batch_size > 1):
            return target, observation
        return target, through(observation, Clipping(self.clip))


@dataclass(frozen=True)
class Clipping(Channel):
    """Scales down what is longer than a bound.

    Args:
        bound: Largest norm of all tensors together.
    """

    bound: float

    def __call__(self, gradients: Mapping[str, Tensor]) -> Update:
        """Gradients by name, differentiable."""
        return clipped(gradients, self.bound)


def clipped(gradient: Mapping[str, Tensor], bound: float) -> Update:
    """A gradient scaled down to a norm of at most `bound`; differentiable."""
    squares = torch.stack([g.square().sum() for g in gradient.values()]).sum()
    factor = (bound / squares.clamp_min(TINY).sqrt()).clamp_max(1.0)
    return {name: g * factor for name, g in gradient.items()}


def _mean(gradients: list[Update]) -> Update:
    return {name: torch.stack([g[name] for g in gradients]).mean(0) for name in gradients[0]}
