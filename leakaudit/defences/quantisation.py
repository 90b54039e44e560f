r"""Quantised updates: signs, or integers of a few bits with one scale per tensor.

``sign`` shares :math:`\operatorname{sign}(g)` times the mean magnitude of its tensor (Bernstein et al. 2018, arXiv
1802.04434), ``int`` rounds to :math:`2^{b-1}-1` steps on either side. Signs look like noise to an attack that compares
magnitudes. One that knows asks no more than the sign of every entry,

.. math:: \sum_j \max(0,\; 1 - s_j g_j / \tau)^2

the squared hinge loss of one-bit compressed sensing (Jacques et al. 2013, arXiv 1104.3160), with τ a quarter of the
shared magnitude, and leans on a heavier total variation for what signs leave open. Integers are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update
from leakaudit.defences.evidence import Check
from leakaudit.observation import Channel, Observation
from leakaudit.target.target import Target

MARGIN = 0.25
"""Share of the shared magnitude up to which an entry of the right sign is still pushed; chosen: on a LeNet it gives
21.5 dB, 0.1 gives 22.3 and 1 gives 20.3 (`benchmarks/results/constants.md`, 4 images)."""
ROUNDED = 0.01
"""Relative difference within which magnitudes are one; chosen: a step of 1e-3 read from weights of 0.1 in float32 is
rounded by 1e-5, one of 1e-5 by 1e-3."""


@dataclass(frozen=True, kw_only=True)
class SignQuantisation(Defence):
    """Share signs and one magnitude per tensor."""

    name: ClassVar[str] = "sign"
    title: ClassVar[str] = "Sign quantisation (signSGD)"
    adaptive: ClassVar[str] = "asks for the right signs and no more, and leans on the smoothness of images"
    reference: ClassVar[str] = "Bernstein et al., signSGD, ICML 2018, arXiv 1802.04434"
    order: ClassVar[int] = 30
    signs: ClassVar[bool] = True
    pure: ClassVar[bool] = True

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Signs times the mean magnitude of the entries that are not zero."""
        return {name: g.sign() * _magnitude(g) for name, g in update.items()}

    def channel(self, observation: Observation) -> Channel:
        """Ask of every entry that it has the observed sign, and no more."""
        return SignMargin(observation.update)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With that channel, and the knowledge that no entry says more than its sign."""
        target, seen = super().adapt(target, observation)
        return target, replace(seen, one_bit=True)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """One magnitude a tensor, up to the rounding of weights that it was read from."""
        most = max(_magnitudes(g) for g in shared.values())
        return [Check("distinct magnitudes in a tensor", "at most 1", str(most), most <= 1)]

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """It has no settings."""
        return ("sign",)


def _magnitudes(tensor: Tensor) -> int:
    """How many different magnitudes the entries have that are not zero; those within :data:`ROUNDED` are one."""
    sizes = torch.unique(tensor[tensor != 0].abs())
    return 1 if len(sizes) and float(sizes[-1]) <= (1 + ROUNDED) * float(sizes[0]) else len(sizes)


def _magnitude(tensor: Tensor) -> Tensor:
    return tensor.abs().sum() / tensor.ne(0).sum().clamp_min(1)


@dataclass(frozen=True, eq=False)
class SignMargin(Channel):
    """Caps entries of the right sign at a margin and leaves those of the wrong sign as they are.

    Args:
        update: As shared: signs times one magnitude per tensor.
    """

    update: Mapping[str, Tensor]

    def __call__(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by name, differentiable, scaled so that the margin comes out at the shared magnitude."""
        found = dict(gradients)
        for name, shared in self.update.items():
            sign, right = shared.sign(), gradients[name] * shared.sign()
            capped = torch.minimum(right / MARGIN, shared.abs()) * sign
            found[name] = torch.where(shared == 0, gradients[name], capped)
        return found


@dataclass(frozen=True, kw_only=True)
class IntegerQuantisation(Defence):
    """Share integers with one scale per tensor.

    Args:
        bits: Bits per entry, 2 to 16; eight by convention.
    """

    bits: int = 8

    name: ClassVar[str] = "int"
    title: ClassVar[str] = "Integer quantisation"
    adaptive: ClassVar[str] = (
        "takes the rounded values as they are: the rounding is small noise; closed forms know its step"
    )
    order: ClassVar[int] = 90
    pure: ClassVar[bool] = True
    reference: ClassVar[str] = "Alistarh et al., QSGD, NeurIPS 2017, arXiv 1610.02132 (without its random rounding)"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits is {self.bits}, expected 2 to 16")

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Round to the nearest of the steps between plus and minus the largest magnitude."""
        found = {}
        for name, g in update.items():
            scale = self._step(g)
            found[name] = (g / scale).round() * scale
        return found

    def _step(self, tensor: Tensor) -> Tensor:
        """Between neighbouring values; the largest magnitude is not changed by rounding, so an update shows it."""
        largest: Tensor = tensor.abs().max() / (2 ** (self.bits - 1) - 1)
        return largest.clamp_min(torch.finfo(tensor.dtype).tiny)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """The values as they are, with the step of their rounding."""
        known = observation.rounding or {}
        steps = {name: float(self._step(g)) + known.get(name, 0.0) for name, g in observation.update.items()}
        return target, replace(observation, rounding=steps)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """No more values a tensor than the bits allow."""
        most = max(len(torch.unique(g)) for g in shared.values())
        return [Check("distinct values in a tensor", f"at most {2**self.bits}", str(most), most <= 2**self.bits)]
