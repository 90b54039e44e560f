r"""Clipping and Gaussian noise: DP-SGD's mechanism, or either half of it alone.

.. math:: \tilde g = \frac{1}{B}\sum_{i=1}^{B} g_i \min(1, C/\|g_i\|) + \mathcal N(0, \sigma^2 I)

(Abadi et al. 2016, arXiv 1607.00133). With both halves the step is a Gaussian mechanism with noise multiplier
:math:`z = \sigma B / C` (per sample) or :math:`z = \sigma / C` (per update), whose privacy loss is accounted by
Google's `dp-accounting` for the stated sampling rate and number of steps. Clipping alone only rescales; noise alone is
unaccounted, since nothing bounds the gradient: neither has a bound, and none is printed.

The attacker knows C and σ: the clipping is part of the match (exactly for one sample), the standard preset chooses the
weight of its prior on the noisy update, and closed forms test zeros, norms and ranks against σ
(`leakaudit.attacks.reading.noise`). One update is one draw of the noise; averaging over rounds is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update
from leakaudit.defences.evidence import Check, ErrorBound, Guarantee, flat
from leakaudit.observation import Channel, Observation
from leakaudit.protocols.base import Play
from leakaudit.target.target import Target

TINY = 1e-38
"""Squared norm below which a gradient counts as zero: where the precision of float32 ends."""
STANDARD_ERRORS = 4.0
"""By how many standard errors a measured noise level may differ from the claimed one; chosen: 6 honest updates in
100,000 do."""
MULTIPLIERS, GRID_CLIP = (0.01, 0.1, 1.0), 1.0
"""Of the grid: noise multipliers (σ of the noise on the sum, over the clipping bound; a decade apart, the last with a
bound of 9 % on guessing one of a hundred, `benchmarks/results/rero.md`) and that bound; both chosen."""


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
    adaptive: ClassVar[str] = (
        "clips its own gradient alike and weighs its prior by the noisy match; closed forms test zeros, norms and "
        "ranks against the noise level"
    )
    order: ClassVar[int] = 10
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

    def channel(self, observation: Observation) -> Channel | None:
        """Clip the guess's gradient too, where that is what the client does; the rest is left to the prior."""
        if self.clip == 0 or (self.per == "sample" and observation.batch_size > 1):
            return None
        return Clipping(self.clip)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With the clipping as a channel, and the noise level known; noise of several defences adds up in squares."""
        target, seen = super().adapt(target, observation)
        noise = math.hypot(seen.noise, self.noise)
        return target, replace(seen, noise=noise, rescaled=seen.rescaled or self.clip > 0)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The noise level, or without noise the norm."""
        names = list(shared)
        bounded = clipped({n: raw[n] for n in names}, self.clip) if self.clip else raw
        rest = flat(shared, names) - flat(bounded, names)
        if self.noise:
            measured, error = float(rest.std()), self.noise / math.sqrt(2 * rest.numel())
            # with several samples clipped one by one the residual also holds the difference of the clippings
            slack = STANDARD_ERRORS * error + (0.0 if not self.clip else 0.02 * self.noise)
            holds = abs(measured - self.noise) <= slack
            return [Check("standard deviation of the noise", f"{self.noise:g}", f"{measured:g}", holds)]
        norm = float(flat(shared, names).norm())
        return [Check("norm", f"at most {self.clip:g}", f"{norm:g}", norm <= self.clip * 1.001)]

    def guarantee(self, batch_size: int, prior: float) -> Guarantee | None:
        """ε and the bound on reconstruction; ``None`` without clipping or without noise."""
        if not self.accounted:
            return None
        from leakaudit.defences import accounting

        return accounting.gaussian(self.multiplier(batch_size), self.rate, self.steps, self.delta, prior)

    def error_bound(self, target: Target, observation: Observation, play: Play, generator: Generator) -> ErrorBound:
        """For one sample, whose clipping is a smooth function of it."""
        if not self.accounted:
            return super().error_bound(target, observation, play, generator)
        if len(play.inputs) > 1:
            return ErrorBound(None, "computed for one sample per update only")
        from leakaudit.risk.fisher import fisher_bound

        _, seen = self.adapt(target, observation)
        return ErrorBound(fisher_bound(target, seen, play, self.noise, generator).mse)

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Three noise multipliers at one clipping bound."""
        return tuple(f"clip={GRID_CLIP:g},noise={z * GRID_CLIP / batch_size:g}" for z in MULTIPLIERS)


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
