r"""Client mods of Flower: LocalDpMod, fixedclipping_mod and adaptiveclipping_mod (version 1.4x, documentation and
code).

All three clip the difference of weights to a norm C. LocalDpMod then adds noise to every weight, of

.. math:: \sigma = s \sqrt{2 \ln(1.25/\delta)} / \varepsilon

for a stated sensitivity s: the classic bound of the Gaussian mechanism, a theorem for ε < 1 only (Dwork and Roth 2014,
doi 10.1561/0400000042, theorem A.1). What it guarantees is accounted here from σ and C, for a client that takes part in
`rounds` rounds. The clipping mods add no noise: the server does, to the aggregate, after it has seen every update.

Single numbers (scalars, counters) count in the norm, and pass unclipped and un-noised: numpy's in-place operations of
Flower's code do not reach them, as its own mods show in `tests/defences/test_frameworks.py`.

Deviation: Flower takes the norm over all arrays of a reply, BatchNorm buffers and counters included. Here the update
has trainable tensors only; that the norm counts more is a finding (LA504).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Update
from leakaudit.defences.evidence import Check, Guarantee, flat
from leakaudit.defences.faults import later_rounds, unnoised
from leakaudit.defences.frameworks.base import (
    Arrays,
    FrameworkFilter,
    arrays_of,
    random_state,
    tensors_like,
)
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.obstacles import Circumstances
from leakaudit.defences.residual import noise_checks, norm_checks
from leakaudit.defences.units import in_both_units
from leakaudit.document.status import MisuseKind
from leakaudit.observation import Channel, Observation
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.private import TINY
from leakaudit.target.target import Target

LATER = (10, 100)
"""Rounds after which ε is told where nobody counts them; chosen."""
REFERENCE = "McMahan et al., Learning differentially private recurrent language models, arXiv 1710.06963"


def flat_clipped(tensors: Mapping[str, Tensor], bound: float) -> dict[str, Tensor]:
    """A difference of weights as Flower clips it: the norm is of all, and single numbers stay as they are."""
    squares = torch.stack([t.square().sum() for t in tensors.values()]).sum()
    factor = (bound / squares.clamp_min(TINY).sqrt()).clamp_max(1.0)
    return {name: t * factor if t.dim() else t for name, t in tensors.items()}


@dataclass(frozen=True)
class FlatClipping(Channel):
    """The clipping of Flower's mods.

    Args:
        bound: C, in units of the weights.
    """

    bound: float

    def __call__(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Differences of weights by name, differentiable."""
        return flat_clipped(gradients, self.bound)


@dataclass(frozen=True, kw_only=True)
class _Clips(FrameworkFilter):
    """Clips the difference of weights as a whole.

    Args:
        clipping_norm: C, in units of the weights.
    """

    clipping_norm: float

    summed: ClassVar[bool] = True

    @property
    def level(self) -> float:
        """Standard deviation of the noise that the client adds."""
        return 0.0

    def _refuse_norm(self) -> None:
        if not 0 < self.clipping_norm < math.inf:
            raise ValueError(f"clipping_norm is {self.clipping_norm:g}, expected a finite number above 0")

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Clip, then add the noise, if any."""
        found = self.filtered(arrays_of(update), random_state(generator))
        return tensors_like(found, update)

    def filtered(self, arrays: Arrays, random: np.random.RandomState) -> Arrays:
        """The difference of weights as the mod shares it, in float32 and by numpy's random numbers as Flower draws
        them.

        Args:
            arrays: Differences by name, in the order of the reply.
            random: Legacy generator of numpy.
        """
        norm = math.sqrt(sum(float(np.linalg.norm(array.ravel())) ** 2 for array in arrays.values()))
        factor = min(1.0, self.clipping_norm / norm) if norm else 1.0
        found = {name: array * factor if array.ndim else array for name, array in arrays.items()}
        for name, array in found.items() if self.level else ():
            noise = random.normal(0, self.level, array.shape)
            if array.ndim:
                found[name] = array + noise.astype(array.dtype)
        return found

    def quiet(self, update: Update, step: ClientStep) -> tuple[Update, float]:
        """Clipped, and the noise."""
        return flat_clipped(update, self.clipping_norm), self.level

    def channel(self, observation: Observation) -> Channel:
        """Clip the guess alike."""
        return FlatClipping(self.clipping_norm)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With that channel and the noise."""
        target, seen = super().adapt(target, observation)
        return target, replace(seen, noise=math.hypot(seen.noise, self.level), rescaled=True)

    def check_step(self, step: ClientStep, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The norm, or the noise in every tensor and the clipping below it."""
        clean = flat_clipped({name: raw[name] for name in shared}, self.clipping_norm) if step.replayed else {}
        if self.level == 0:
            return norm_checks(clean, shared, self.clipping_norm)
        noisy = {name: tensor for name, tensor in shared.items() if tensor.dim()}
        return noise_checks(raw, clean, noisy, self.level, clips=True) if clean and noisy else []

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """The norm over buffers."""
        if practice.buffers and practice.shared:
            own, beside = (float(flat(part, part).norm()) for part in (practice.shared, practice.buffers))
            yield Misuse(
                MisuseKind.BUFFERS_COUNTED,
                f"Flower's norm is over all arrays of a reply: the {len(practice.buffers)} buffers that were "
                f"sent moved by "
                f"{beside:.3g}, the trainable tensors by {own:.3g}, with a bound of {self.clipping_norm:g}.",
                "certified",
                grave=False,
            )
        elif practice.kept:
            yield Misuse(
                MisuseKind.BUFFERS_COUNTED,
                f"the norm that Flower clips is over all arrays of a reply, and the model has "
                f"{len(practice.kept)} buffers "
                f"({', '.join(practice.kept[:3])}), which a state dict brings along.",
                "estimated",
                grave=False,
            )


@dataclass(frozen=True, kw_only=True)
class LocalDp(_Clips):
    """Clip, and add noise that is calibrated by the classic bound.

    Args:
        sensitivity: s that the noise is calibrated for; the mechanism's own is the clipping norm.
        epsilon: ε of a round that the noise is calibrated for.
        delta: δ of it.
        rounds: Rounds that a client takes part in, which Flower's mod does not count.
    """

    sensitivity: float
    epsilon: float
    delta: float
    rounds: int = 1

    name: ClassVar[str] = "flower:LocalDpMod"
    title: ClassVar[str] = "Flower LocalDpMod"
    adaptive: ClassVar[str] = "clips its own update alike, and weighs its prior by the noise"
    reference: ClassVar[str] = REFERENCE
    units: ClassVar[str] = "clipping_norm and sensitivity are norms of a difference of weights; rounds is ours, for ε"
    order: ClassVar[int] = 97
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._refuse_norm()
        for key, value in (("sensitivity", self.sensitivity), ("epsilon", self.epsilon)):
            if not 0 < value < math.inf:
                raise ValueError(f"{key} is {value:g}, expected a finite number above 0")
        if not 0 < self.delta < 1 or self.rounds < 1:
            raise ValueError(f"delta={self.delta:g}, rounds={self.rounds}: expected between 0 and 1, and at least 1")

    @property
    def level(self) -> float:
        """σ by the classic bound."""
        return self.sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon

    def guaranteed(self, protocol: Protocol, prior: float) -> Guarantee | None:
        """From σ and C, whatever the mod was told of ε."""
        from leakaudit.defences import accounting

        found = accounting.gaussian(self.level / self.clipping_norm, 1.0, self.rounds, self.delta, prior)
        return replace(found, unit="client", reading=in_both_units(protocol, self.level, self.clipping_norm))

    def obstacle(self, circumstances: Circumstances) -> str:
        """Tensors that the mod neither clips nor noises."""
        if circumstances.scalars:
            return f"{', '.join(circumstances.scalars[:3])}, a single number, passes without clipping and without noise"
        return super().obstacle(circumstances)

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """The classic bound, the wrong sensitivity, rounds that nobody counts, and tensors without noise."""
        yield from super().misuses(practice)
        yield from self._miscalibrated()
        if practice.round is None and self.rounds == 1:
            later = "; ".join(f"after {n} rounds {self._after(n):.3g}" for n in LATER)
            told = f"the mod has no accountant: ε is {self._after(1):.3g} after one round, and {later}."
            yield Misuse(MisuseKind.UNACCOUNTED, told, "estimated", grave=False)
        yield from later_rounds(practice, self.rounds, self._after)
        yield from unnoised(practice, practice.quiet(self))
        if practice.scalars:
            yield Misuse(
                MisuseKind.PASSED_UNNOISED,
                f"{', '.join(practice.scalars[:3])}, a single number, passes without clipping and without noise.",
                "certified",
            )

    def _miscalibrated(self) -> Iterator[Misuse]:
        exact = self._after(1)
        if self.epsilon > 1:
            verdict = "larger" if exact > self.epsilon else "not larger, but by another theorem"
            yield Misuse(
                MisuseKind.CLASSIC_BOUND,
                f"σ = {self.level:.4g} is set by the classic bound for ε = {self.epsilon:g}, above 1; the exact "
                f"ε of this "
                f"noise at δ = {self.delta:g} is {exact:.4g}, {verdict}.",
                "certified",
                grave=exact > self.epsilon,
            )
        elif exact > self.epsilon:
            yield Misuse(
                MisuseKind.WRONG_DIVISOR,
                f"the noise is calibrated for a sensitivity of {self.sensitivity:g}, and one client moves what "
                f"is sent by up "
                f"to the clipping norm {self.clipping_norm:g}: ε is {exact:.4g}, not {self.epsilon:g}.",
                "certified",
            )

    def _after(self, rounds: int) -> float:
        from leakaudit.defences import accounting

        return accounting.epsilon(self.level / self.clipping_norm, 1.0, rounds, self.delta)


@dataclass(frozen=True, kw_only=True)
class FixedClipping(_Clips):
    """Clip at the client; the server adds noise to the aggregate.

    Args:
        noise_multiplier: z of the server's strategy, 0 where it adds none; nothing of it reaches the update.
        num_sampled_clients: Clients that the strategy divides its noise by; 0 where it adds none.
    """

    noise_multiplier: float = 0.0
    num_sampled_clients: int = 0

    name: ClassVar[str] = "flower:fixedclipping"
    title: ClassVar[str] = "Flower fixedclipping_mod"
    adaptive: ClassVar[str] = "clips its own update alike"
    reference: ClassVar[str] = REFERENCE
    units: ClassVar[str] = (
        "clipping_norm is a norm of a difference of weights; noise_multiplier and num_sampled_clients are the server's"
    )
    remains: ClassVar[str] = "the direction of the update, whatever noise the server adds to the aggregate"
    order: ClassVar[int] = 97
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._refuse_norm()
        if not 0 <= self.noise_multiplier < math.inf or self.num_sampled_clients < 0:
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier:g}, num_sampled_clients={self.num_sampled_clients}: "
                f"expected at "
                "least 0 each"
            )
        if bool(self.noise_multiplier) != bool(self.num_sampled_clients):
            raise ValueError("noise_multiplier and num_sampled_clients say together what noise the server adds")

    def unbounded(self, entries: int) -> str:
        """That the server's noise is not in the update."""
        if not self.noise_multiplier:
            return ""
        level = self.noise_multiplier * self.clipping_norm / self.num_sampled_clients
        return (
            f"the noise (standard deviation {level:.3g} on the mean of {self.num_sampled_clients}) is added by "
            f"the server, "
            "after it has seen this update"
        )

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """The norm over buffers, noise at the server only, and a divisor that is not the number of clients."""
        yield from super().misuses(practice)
        if self.noise_multiplier and practice.clients == 1:
            told = f"the update is clipped, and {self.unbounded(practice.entries)}."
            yield Misuse(MisuseKind.SERVER_SEES_RAW, told, "certified")
        elif self.noise_multiplier and practice.clients != self.num_sampled_clients:
            yield Misuse(
                MisuseKind.WRONG_DIVISOR,
                f"the strategy divides its noise by {self.num_sampled_clients} clients, and {practice.clients} "
                f"are aggregated.",
                "certified",
                grave=practice.clients < self.num_sampled_clients,
            )


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping(FixedClipping):
    """Clip at the client, to a norm that the server adapts by a bit that clients send along."""

    name: ClassVar[str] = "flower:adaptiveclipping"
    title: ClassVar[str] = "Flower adaptiveclipping_mod"
    reference: ClassVar[str] = "Andrew et al., Differentially private learning with adaptive clipping, arXiv 1905.03871"
    order: ClassVar[int] = 97
    remains: ClassVar[str] = (
        "the direction of the update, and beside it an exact bit: whether its norm was above the clipping norm"
    )

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """As of fixed clipping, and the bit."""
        yield from super().misuses(practice)
        yield Misuse(
            MisuseKind.PASSED_UNNOISED,
            "a bit that says whether the norm was above the clipping norm goes to the server without noise.",
            "certified",
            grave=False,
        )
