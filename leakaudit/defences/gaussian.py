r"""Clipping and Gaussian noise: DP-SGD's mechanism, or either half of it alone.

.. math:: \tilde g = \frac{1}{L}\Bigl(\sum_{i=1}^{B} g_i \min(1, C/\|g_i\|) + \mathcal N(0, z^2 C^2 I)\Bigr)

(Abadi et al. 2016, arXiv 1607.00133, algorithm 1). B samples were drawn, L is the number that the sum is divided by:
the expected batch of Poisson sampling, or B itself where every batch has the same size.

The noise has three units, of which the settings name one: ``noise`` is a standard deviation on the shared mean gradient
(:math:`\sigma = zC/L`), with ``noise-on=sum`` on the sum (:math:`zC`), and ``multiplier`` is z, what Opacus and Flower
call the noise multiplier. With both halves the step is a Gaussian mechanism with that z, whose privacy loss is
accounted by Google's `dp-accounting` for the stated sampling rate and number of steps. With ``per=update`` what a
client sends is clipped as a whole, :math:`z = \sigma / C`, and what is bounded is the part of a client.

Of clients that train locally, ``per=sample`` is DP-SGD inside that training (`leakaudit.protocols.private`): every step
clips its samples and adds its noise, units are those of a step's gradient, and one update costs as many mechanisms as
a sample has visits. ``per=update``, and noise alone, act on the difference of weights that is sent: clip and noise are
then in units of weights.

Clipping alone only rescales; noise alone is unaccounted, since nothing bounds the gradient: neither has a bound, and
none is printed.

Each sample is clipped by itself, so nothing holds where samples are coupled (BatchNorm that normalises with the batch,
`leakaudit.target.coupling`): that is refused, and when a bound holds at all is `leakaudit.defences.obstacles`'s.

The attacker knows C and σ: the clipping is part of the match (exactly for one sample), the standard preset chooses the
weight of its prior on the noisy update, and closed forms test zeros, norms and ranks against σ
(`leakaudit.attacks.reading.noise`). One update is one draw of the noise; averaging over rounds is not modelled. What
the noise of one step does to the gradients of the next is left out of the level that they are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from leakaudit.defences import steps as local_steps
from leakaudit.defences.base import ClientStep, Defence, Update, adapted
from leakaudit.defences.clipping import Clipping, noised, scaled
from leakaudit.defences.evidence import Check, ErrorBound, Guarantee
from leakaudit.defences.faults import counted_buffers, later_rounds, misdivided, unnoised
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.obstacles import Circumstances
from leakaudit.defences.residual import noise_checks, norm_checks
from leakaudit.defences.units import in_both_units, moves
from leakaudit.errors import UsageError
from leakaudit.observation import Channel, Observation
from leakaudit.protocols.base import Play, Protocol
from leakaudit.protocols.private import StepPrivacy, clipped
from leakaudit.target.target import Target

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
    summed: ClassVar[bool] = True
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

    def within(self, protocol: Protocol | None) -> bool:
        """Whether it acts inside the local steps of such clients."""
        return self.acts_on_samples and protocol is not None and moves(protocol)

    @property
    def privacy(self) -> StepPrivacy:
        """What it does in a local step."""
        on_sum = bool(self.multiplier) or self.noise_on == "sum"
        return StepPrivacy(self.clip, self.multiplier * self.clip or self.noise, on_sum, self.expected_batch)

    def protocol(self, protocol: Protocol) -> Protocol:
        """With clipping and noise in every local step, where that is where it acts.

        Raises:
            UsageError: It counts samples that the noise on a difference of weights does not have.
        """
        if self.within(protocol):
            return protocol.privately(self.privacy)
        if moves(protocol) and (self.noise_on == "sum" or self.expected_batch):
            raise UsageError(
                f"--defence {self}: without clip=… the noise is on the difference of weights, which is no mean",
                "leave noise-on and expected-batch out, or clip every sample",
            )
        return protocol

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Clip where wanted, then add noise where wanted; nothing more where every step has done so."""
        if self.within(step.protocol):
            return update
        return noised(self._clean(update, step), self.level(len(step.inputs)), generator)

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

    def quiet(self, update: Update, step: ClientStep) -> tuple[Update, float] | None:
        """What is shared before the noise; nothing is told apart inside local steps."""
        return None if self.within(step.protocol) else (self._clean(update, step), self.level(len(step.inputs)))

    def channel(self, observation: Observation) -> Channel | None:
        """Clip the guess's gradient too, where that is what the client does; the rest is left to the prior."""
        drawn = observation.batch_size
        if self.within(observation.protocol):
            return None
        scale = 1.0 if self.per == "update" and self.clip else drawn / self.divisor(drawn)
        if self.acts_on_samples and drawn > 1:
            return None
        return None if self.clip == 0 and scale == 1 else Clipping(self.clip or math.inf, scale)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With the clipping as a channel, and the noise level known; noise of several defences adds up in squares.

        The steps of a guess clip as the client's do where each is of one sample.
        """
        target, seen = super().adapt(target, observation)
        protocol = seen.protocol
        if self.within(protocol):
            level = local_steps.level(self.privacy, protocol)
            kept = protocol if max(protocol.step_sizes) == 1 else protocol.privately(None)
            return target, replace(seen, protocol=kept, noise=math.hypot(seen.noise, level), rescaled=True)
        noise = math.hypot(seen.noise, self.level(observation.batch_size))
        return target, replace(seen, noise=noise, rescaled=seen.rescaled or self.clip > 0)

    def check_step(self, step: ClientStep, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The noise in every tensor, and by its projections the clipping below it; without noise norm and values."""
        if self.within(step.protocol):
            return self._check_within(step, step.read(shared))
        drawn = len(step.inputs)
        share = 1.0 if self.per == "update" else drawn / self.divisor(drawn)
        level = self.level(drawn)
        if level == 0:
            return norm_checks(self._clean(raw, step) if step.replayed else {}, shared, self.clip * share)
        if not step.replayed:
            return []
        return noise_checks(scaled(raw, share), self._clean(raw, step), shared, level, clips=self.clip > 0)

    def _check_within(self, step: ClientStep, shared: Mapping[str, Tensor]) -> list[Check]:
        """Of a single local step, in units of its gradient; of several nothing is told apart."""
        if self.unchecked(step):
            return []
        drawn, alone = len(step.inputs), list(step.per_sample())
        divisor = self.divisor(drawn)
        bounded = [clipped({n: g[n] for n in shared}, self.clip) for g in alone]
        sums = ({n: torch.stack([g[n] for g in part]).sum(0) for n in shared} for part in (alone, bounded))
        whole, clean = (scaled(total, 1 / divisor) for total in sums)
        if self.noisy:
            return noise_checks(whole, clean, shared, self.privacy.level(drawn), clips=True)
        return norm_checks(clean, shared, self.clip * drawn / divisor)

    def unchecked(self, step: ClientStep) -> str:
        """Several private steps have no noise that could be told from one update."""
        single = step.protocol is not None and len(step.protocol.step_sizes) == 1
        if not self.within(step.protocol) or (step.replayed and single):
            return ""
        return "what every local step clipped and added cannot be told from the update"

    def guarantee(self, batch_size: int, prior: float) -> Guarantee | None:
        """ε and the bound on reconstruction; ``None`` without clipping or without noise."""
        if not self.accounted:
            return None
        from leakaudit.defences import accounting

        z = self.noise_multiplier(batch_size)
        found = accounting.gaussian(z, self.rate, self.steps, self.delta, prior)
        unit: Literal["sample", "client"] = "client" if self.per == "update" else "sample"
        return replace(found, unit=unit, reading=self._reading(batch_size), other=self._other(batch_size, prior))

    def guaranteed(self, protocol: Protocol, prior: float) -> Guarantee | None:
        """As above; inside local steps, of as many mechanisms as an update has for one sample."""
        if not self.accounted or not moves(protocol):
            return super().guaranteed(protocol, prior)
        if self.within(protocol):
            return local_steps.guarantee(
                self.privacy, protocol, prior, rate=self.rate, whole=self.steps, delta=self.delta
            )
        found = super().guaranteed(protocol, prior)
        return None if found is None else replace(found, reading=self._both(protocol), other=None)

    def _both(self, protocol: Protocol) -> str:
        return in_both_units(protocol, self.level(protocol.batch_size), self.clip)

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """What a shared update shows of noise that is missing or of the wrong size, and of whose norm was clipped."""
        drawn = practice.protocol.batch_size
        if self.accounted:
            yield from later_rounds(practice, *self._covered(practice.protocol))
        if self.within(practice.protocol):
            return
        if self.per == "update" and self.clip:
            yield from counted_buffers(practice, self.clip)
        if self.noisy:
            quiet = practice.quiet(self)
            if self.per == "sample":
                yield from misdivided(practice, quiet, drawn)
            yield from unnoised(practice, quiet)

    def _covered(self, protocol: Protocol) -> tuple[float, Callable[[int], float]]:
        """Rounds that the accountant was told of, and ε after others."""
        from leakaudit.defences import accounting

        within = self.within(protocol)
        each = local_steps.of_update(protocol, self.rate) if within else 1
        z = local_steps.multiplier(self.privacy, protocol) if within else self.noise_multiplier(protocol.batch_size)
        return self.steps / each, lambda rounds: accounting.epsilon(z, self.rate, rounds * each, self.delta)

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

        _, seen = adapted(target, observation, [self])
        return ErrorBound(fisher_bound(target, seen, play, seen.noise, generator).mse)

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Three noise multipliers at one clipping bound."""
        return tuple(f"clip={GRID_CLIP:g},noise={z * GRID_CLIP / batch_size:g}" for z in MULTIPLIERS)


@dataclass(frozen=True, kw_only=True)
class Opacus(GaussianMechanism):
    """DP-SGD as Opacus runs it, in its units: ``opacus:multiplier=1,clip=1,expected-batch=8,rate=0.01,steps=1000``."""

    name: ClassVar[str] = "opacus:PrivacyEngine"
    title: ClassVar[str] = "Opacus (DP-SGD)"
    order: ClassVar[int] = 98
    like: ClassVar[str] = "dp"
    units: ClassVar[str] = (
        "multiplier is the noise multiplier and clip the max_grad_norm of PrivacyEngine; expected-batch is what its "
        "optimizer divides by, rate the sampling rate and steps the number of optimizer steps of the training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.multiplier or self.per != "sample":
            raise ValueError("Opacus clips samples and has a noise multiplier: give multiplier=… and clip=…")

    def __str__(self) -> str:
        return f"opacus:{super().__str__()}"

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Nothing that the mechanism's own grid has not."""
        return ()
