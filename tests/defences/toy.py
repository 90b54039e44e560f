"""A defence of a plug-in with two settings, in one file: a client shares a fraction of its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from leakaudit import Channel, Check, ClientStep, Defence, Guarantee, Observation


@dataclass(frozen=True)
class Scaling(Channel):
    """A fraction of the gradient."""

    share: float

    def __call__(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: self.share * g for name, g in gradients.items()}


@dataclass(frozen=True, kw_only=True)
class Half(Defence):
    """Share a fraction of the update."""

    factor: float = 0.5
    twice: bool = False

    name: ClassVar[str] = "half"
    title: ClassVar[str] = "A fraction of the update"
    adaptive: ClassVar[str] = "scales its own gradient alike"
    reference: ClassVar[str] = "none"

    @property
    def share(self) -> float:
        """Of the update."""
        return self.factor ** (2 if self.twice else 1)

    def protect(self, update: dict[str, Tensor], step: ClientStep, generator: Generator) -> dict[str, Tensor]:
        return {name: self.share * g for name, g in update.items()}

    def channel(self, observation: Observation) -> Channel:
        return Scaling(self.share)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        name = next(iter(shared))
        ratio = float(shared[name].abs().max() / raw[name].abs().max())
        return [Check("share", f"{self.share:g}", f"{ratio:g}", abs(ratio - self.share) < 1e-5)]

    def guarantee(self, batch_size: int, prior: float) -> Guarantee:
        """None worth the name, but it is the method's to say."""
        return Guarantee(7.0, 1e-5, 1.0, 1.0, 1, prior, 0.5, 0.5)

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        return ("half", "half,twice")
