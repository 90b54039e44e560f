r"""Clipping and Gaussian noise: DP-SGD's mechanism, or either half of it alone.

.. math:: \tilde g = \frac{1}{L}\Bigl(\sum_{i=1}^{B} g_i \min(1, C/\|g_i\|) + \mathcal N(0, z^2 C^2 I)\Bigr)

(Abadi et al. 2016, arXiv 1607.00133, algorithm 1). B samples were drawn, L is the number that the sum is divided by:
the expected batch of Poisson sampling, or B itself where every batch has the same size.

The noise has three units, of which the settings name one: ``noise`` is a standard deviation on the shared mean gradient
(:math:`\sigma = zC/L`), with ``noise-on=sum`` on the sum (:math:`zC`), and ``multiplier`` is z, what Opacus and Flower
call the noise multiplier. With both halves the step is a Gaussian mechanism with that z, whose privacy loss is
accounted by Google's `dp-accounting` for the stated sampling rate and number of steps. With ``per=update`` the mean
gradient of a client is clipped as a whole, :math:`z = \sigma / C`, and what is bounded is the part of a client.
Clipping alone only rescales; noise alone is unaccounted, since nothing bounds the gradient: neither has a bound, and
none is printed.

Each sample is clipped by itself, so nothing holds where samples are coupled (BatchNorm that normalises with the batch,
`leakaudit.target.coupling`): that is refused, and when a bound holds at all is `leakaudit.defences.obstacles`'s.

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
from leakaudit.defences.evidence import Check, ErrorBound, Guarantee
from leakaudit.defences.obstacles import Circumstances
from leakaudit.defences.residual import noise_checks, norm_checks
from leakaudit.observation import Channel, Observation
from leakaudit.protocols.base import Play
from leakaudit.target.target import Target

TINY = 1e-38
"""Squared norm below which a gradient counts as zero: where the precision of float32 ends."""
MULTIPLIERS, GRID_CLIP = (0.01, 0.1, 1.0), 1.0
"""Of the grid: noise multipliers (σ of the noise on the sum, over the clipping bound; a decade apart, the last with a
bound of 9 % on guessing one of a hundred, `benchmarks/results/rero.md`) and that bound; both chosen."""
MOST_STEPS = 10**6
"""Most steps that are accounted; chosen: a training has fewer."""


@dataclass(frozen=True, kw_only=True)
class GaussianMechanism(Defence):
    """Clip, then add noise.

    Args:
        clip: Largest norm C of a gradient; 0 does not clip.
        noise: Standard deviation σ of the noise on every entry of the shared mean gradient; 0 adds none.
        multiplier: Noise multiplier z in place of `noise`: the standard deviation on the sum of the clipped gradients,
            in units of `clip`.
        noise_on: What the standard deviation `noise` is of: the ``mean`` of the gradients, or their ``sum``.
        per: ``sample`` clips every sample's gradient (DP-SGD), ``update`` the client's mean gradient.
        expected_batch: Number of samples L that the sum is divided by; 0: as many as were drawn.
        rate: Probability that a sample (or client) takes part in a step, for ε.
        steps: Steps of the whole training, for ε.
        delta: δ for which ε is stated; as in the experiments of Abadi et al. 2016, arXiv 1607.00133.
    """

    clip: float = 0.0
    noise: float = 0.0
    multiplier: float = 0.0
    noise_on: str = "mean"
    per: str = "sample"
    expected_batch: int = 0
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
    units: ClassVar[str] = (
        "noise is a standard deviation on every entry of the shared mean gradient (noise-on=sum: of the sum before it "
        "is divided); multiplier is Opacus' and Flower's noise multiplier z = standard deviation on the sum / clip; "
        "expected-batch is what the sum is divided by under Poisson sampling, by default the samples drawn"
    )

    def __post_init__(self) -> None:
        given = {"clip": self.clip, "noise": self.noise, "multiplier": self.multiplier}
        for key, value in given.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} is {value:g}, expected a finite number, at least 0")
        if not any(given.values()):
            raise ValueError(f"clip is {self.clip:g} and noise {self.noise:g}, expected one of them above 0")
        if self.multiplier and (self.noise or not self.clip):
            raise ValueError(
                "multiplier is the noise in units of clip: it needs clip=… above 0 and stands in place of noise=…"
            )
        self._check_words()
        if not 0 < self.rate <= 1 or not 0 < self.delta < 1 or not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(
                f"rate={self.rate:g}, delta={self.delta:g}, steps={self.steps}: expected probabilities above 0, delta "
                f"below 1, and 1 to {MOST_STEPS} steps"
            )

    def _check_words(self) -> None:
        if self.per not in ("sample", "update"):
            raise ValueError(f"per is {self.per!r}, expected sample or update")
        if self.noise_on not in ("mean", "sum"):
            raise ValueError(f"noise-on is {self.noise_on!r}, expected mean or sum")
        if self.expected_batch < 0:
            raise ValueError(f"expected-batch is {self.expected_batch}, expected at least 1")
        if self.per == "update" and (self.noise_on == "sum" or self.expected_batch):
            raise ValueError("noise-on=sum and expected-batch count samples: with per=update there is one update")

    @property
    def noisy(self) -> bool:
        """Whether noise is added."""
        return self.noise > 0 or self.multiplier > 0

    @property
    def accounted(self) -> bool:
        """Whether the mechanism has a privacy guarantee at all."""
        return self.clip > 0 and self.noisy

    @property
    def acts_on_samples(self) -> bool:
        """Whether it clips the gradients of single samples."""
        return self.clip > 0 and self.per == "sample"

    @property
    def post_processing(self) -> bool:
        """Whether it only changes what it is given."""
        return not self.acts_on_samples

    def divisor(self, drawn: int) -> int:
        """What the sum of the clipped gradients is divided by, of so many samples drawn."""
        return 1 if self.per == "update" else self.expected_batch or drawn

    def level(self, drawn: int) -> float:
        """Standard deviation σ on every entry of what is shared, of so many samples drawn."""
        if self.multiplier:
            return self.multiplier * self.clip / self.divisor(drawn)
        return self.noise / self.divisor(drawn) if self.noise_on == "sum" else self.noise

    def noise_multiplier(self, drawn: int) -> float:
        """z: standard deviation over sensitivity (one sample, or one client, added or removed)."""
        return self.multiplier or self.level(drawn) * self.divisor(drawn) / self.clip

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Clip where wanted, then add noise where wanted."""
        shared, level = self._clean(update, step), self.level(len(step.inputs))
        if level == 0:
            return shared
        return {name: g + level * torch.randn(g.shape, generator=generator).to(g) for name, g in shared.items()}

    def _clean(self, update: Mapping[str, Tensor], step: ClientStep) -> Update:
        """What is shared before the noise."""
        drawn = len(step.inputs)
        if self.clip and self.per == "update":
            return clipped(update, self.clip)
        if not self.clip:
            return scaled(update, drawn / self.divisor(drawn))
        found = {name: torch.zeros_like(g) for name, g in update.items()}
        for alone in step.per_sample():
            for name, g in clipped({n: alone[n] for n in update}, self.clip).items():
                found[name] += g
        return scaled(found, 1 / self.divisor(drawn))

    def channel(self, observation: Observation) -> Channel | None:
        """Clip the guess's gradient too, where that is what the client does; the rest is left to the prior."""
        drawn = observation.batch_size
        scale = 1.0 if self.per == "update" and self.clip else drawn / self.divisor(drawn)
        if self.acts_on_samples and drawn > 1:
            return None
        return None if self.clip == 0 and scale == 1 else Clipping(self.clip or math.inf, scale)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With the clipping as a channel, and the noise level known; noise of several defences adds up in squares."""
        target, seen = super().adapt(target, observation)
        noise = math.hypot(seen.noise, self.level(observation.batch_size))
        return target, replace(seen, noise=noise, rescaled=seen.rescaled or self.clip > 0)

    def check_step(self, step: ClientStep, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The noise in every tensor, and by its projections the clipping below it; without noise norm and values."""
        drawn = len(step.inputs)
        share = 1.0 if self.per == "update" else drawn / self.divisor(drawn)
        level = self.level(drawn)
        if level == 0:
            return norm_checks(self._clean(raw, step) if step.replayed else {}, shared, self.clip * share)
        if not step.replayed:
            return []
        return noise_checks(scaled(raw, share), self._clean(raw, step), shared, level, clips=self.clip > 0)

    def guarantee(self, batch_size: int, prior: float) -> Guarantee | None:
        """ε and the bound on reconstruction; ``None`` without clipping or without noise."""
        if not self.accounted:
            return None
        from leakaudit.defences import accounting

        z = self.noise_multiplier(batch_size)
        found = accounting.gaussian(z, self.rate, self.steps, self.delta, prior)
        return replace(found, reading=self._reading(batch_size), other=self._other(batch_size, prior))

    def _reading(self, drawn: int) -> str:
        """The units of the noise."""
        sigma, divisor = self.level(drawn), self.divisor(drawn)
        if self.per == "update":
            return f"standard deviation {sigma:.3g} on the update, whose norm is clipped to {self.clip:g}"
        source = "expected-batch" if self.expected_batch else "samples of the update"
        return (
            f"standard deviation {sigma:.3g} on the mean gradient = {sigma * divisor:.3g} on the sum, divided by "
            f"{divisor} ({source}), each gradient clipped to {self.clip:g}"
        )

    def _other(self, drawn: int, prior: float) -> Guarantee | None:
        """If ``noise`` was copied from a framework whose unit is the multiplier; ``None`` where the unit is stated."""
        from leakaudit.defences import accounting

        ours = self.noise_multiplier(drawn)
        if self.multiplier or self.noise_on == "sum" or math.isclose(ours, self.noise):
            return None
        found = accounting.gaussian(self.noise, self.rate, self.steps, self.delta, prior)
        return replace(
            found,
            reading=f"if {self.noise:g} is the noise multiplier of Opacus or Flower: write multiplier={self.noise:g}",
        )

    def obstacle(self, circumstances: Circumstances) -> str:
        """Where Poisson sampling decides, a recorded update's number of samples is not what its sum was divided by."""
        if not circumstances.recorded or self.rate == 1 or self.per == "update" or self.expected_batch:
            return ""
        if self.multiplier or self.noise_on == "sum":
            return ""
        return (
            f"rate={self.rate:g} means Poisson sampling, where the sum is divided by the expected batch and not by the "
            f"{circumstances.batch_size} samples drawn: say expected-batch=…"
        )

    def error_bound(self, target: Target, observation: Observation, play: Play, generator: Generator) -> ErrorBound:
        """For one sample, whose clipping is a smooth function of it."""
        if not self.accounted:
            return super().error_bound(target, observation, play, generator)
        if len(play.inputs) > 1:
            return ErrorBound(None, "computed for one sample per update only")
        from leakaudit.risk.fisher import fisher_bound

        _, seen = self.adapt(target, observation)
        return ErrorBound(fisher_bound(target, seen, play, self.level(1), generator).mse)

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Three noise multipliers at one clipping bound."""
        return tuple(f"clip={GRID_CLIP:g},noise={z * GRID_CLIP / batch_size:g}" for z in MULTIPLIERS)


@dataclass(frozen=True)
class Clipping(Channel):
    """Scales down what is longer than a bound.

    Args:
        bound: Largest norm of all tensors together.
        scale: What comes out is multiplied by it: samples drawn over what their sum is divided by.
    """

    bound: float
    scale: float = 1.0

    def __call__(self, gradients: Mapping[str, Tensor]) -> Update:
        """Gradients by name, differentiable."""
        return scaled(clipped(gradients, self.bound), self.scale)


def clipped(gradient: Mapping[str, Tensor], bound: float) -> Update:
    """A gradient scaled down to a norm of at most `bound`; differentiable."""
    squares = torch.stack([g.square().sum() for g in gradient.values()]).sum()
    factor = (bound / squares.clamp_min(TINY).sqrt()).clamp_max(1.0)
    return {name: g * factor for name, g in gradient.items()}


def scaled(gradient: Mapping[str, Tensor], factor: float) -> Update:
    """A gradient times a number."""
    return dict(gradient) if factor == 1 else {name: g * factor for name, g in gradient.items()}
