"""What attackers compare through where a client keeps some entries, zeroes others, and cuts magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leakaudit.observation import Channel

Tensors = Mapping[str, Tensor]
ROUNDED = 1e-3
"""Relative distance from a cut within which an entry was cut; chosen, far above the rounding of float32 weights."""


@dataclass(frozen=True, eq=False)
class DeadZone(Channel):
    """Sets to zero what pruning would, with a slope beyond the threshold; entries that survived pass unchanged.

    Args:
        masks: 1 where the update has an entry, by tensor.
        thresholds: Smallest magnitude that survived, by tensor.
    """

    masks: Tensors
    thresholds: Tensors

    @classmethod
    def of(cls, update: Tensors) -> DeadZone:
        """What an update tells of its pruning; a tensor without survivors has its own thresholds at infinity."""
        smallest = {n: g.abs().masked_fill(g == 0, float("inf")).min() for n, g in update.items()}
        return cls(Support.of(update).masks, smallest)

    def __call__(self, gradients: Tensors) -> dict[str, Tensor]:
        """Gradients by name, differentiable."""
        found = dict(gradients)
        for name, mask in self.masks.items():
            g, threshold = gradients[name], self.thresholds[name]
            beyond = (g.abs() - threshold).clamp_min(0.0) * g.sign()
            found[name] = mask * g + (1 - mask) * beyond
        return found


@dataclass(frozen=True, eq=False)
class Support(Channel):
    """Zeroes the entries that an update does not show.

    Args:
        masks: 1 where the update has an entry, by tensor.
    """

    masks: Tensors

    @classmethod
    def of(cls, update: Tensors) -> Support:
        """The support of an update."""
        return cls({name: g.ne(0).to(g.dtype) for name, g in update.items()})

    def __call__(self, gradients: Tensors) -> dict[str, Tensor]:
        """Gradients by name, differentiable."""
        return {name: g * self.masks[name] if name in self.masks else g for name, g in gradients.items()}


@dataclass(frozen=True)
class Cut(Channel):
    """Cuts magnitudes at a bound: an entry that was cut says no more than its sign.

    Args:
        bound: Largest magnitude.
    """

    bound: float

    def __call__(self, gradients: Tensors) -> dict[str, Tensor]:
        """Gradients by name; those beyond the bound have no slope."""
        return {name: g.clamp(-self.bound, self.bound) for name, g in gradients.items()}


@dataclass(frozen=True, eq=False)
class Shifted(Channel):
    """A channel on full weights, for their differences.

    Args:
        channel: On weights.
        before: The weights that the difference is from, by tensor.
    """

    channel: Channel
    before: Tensors

    def __call__(self, gradients: Tensors) -> dict[str, Tensor]:
        """Differences by name, differentiable."""
        found = self.channel({name: self.before[name] + g for name, g in gradients.items()})
        return {name: tensor - self.before[name] for name, tensor in found.items()}


@dataclass(frozen=True, eq=False)
class LargestShare(Channel):
    """Keeps the entries that an update shows, and holds the others below the cut; entries of a guess are cut alike.

    Where everything that survived was cut to `bound`, an update does not tell the threshold; then it is taken from the
    guess's own magnitudes, over all tensors.

    Args:
        masks: 1 where the update has an entry, by tensor.
        threshold: Smallest magnitude that survived; ``None`` where it is not told.
        kept: How many entries survived.
        bound: Largest magnitude.
    """

    masks: Tensors
    threshold: float | None
    kept: int
    bound: float

    @classmethod
    def of(cls, update: Tensors, bound: float) -> LargestShare:
        """As an update tells it."""
        masks = Support.of(update).masks
        survivors = torch.cat([g[g != 0].abs().flatten() for g in update.values()])
        smallest = float(survivors.min()) if len(survivors) else None
        told = None if smallest is None or smallest >= bound * (1 - ROUNDED) else smallest
        return cls(masks, told, len(survivors), bound)

    def __call__(self, gradients: Tensors) -> dict[str, Tensor]:
        """Differences by name, differentiable."""
        threshold = self._own(gradients) if self.threshold is None else self.threshold
        found = dict(gradients)
        for name, mask in self.masks.items():
            g = gradients[name]
            beyond = (g.abs() - threshold).clamp_min(0.0) * g.sign()
            found[name] = mask * g.clamp(-self.bound, self.bound) + (1 - mask) * beyond
        return found

    def _own(self, gradients: Tensors) -> Tensor:
        """The smallest magnitude of a guess that would survive."""
        every = torch.cat([gradients[name].detach().abs().flatten() for name in self.masks])
        return every.topk(max(1, min(self.kept, len(every)))).values[-1]
