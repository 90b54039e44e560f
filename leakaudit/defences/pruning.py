"""Gradient pruning: entries that are small in magnitude are set to zero (Aji and Heafield 2017; Zhu et al. 2019, §5).

Per tensor, or over the whole update ("top-k sparsification"). The survivors are exact, so an attacker who compares only
them, and asks of the others only to stay below the threshold, faces the undefended problem with fewer equations: with
99 % pruned, a network still has more equations than most images have pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update
from leakaudit.defences.evidence import Check, flat
from leakaudit.defences.survivors import DeadZone
from leakaudit.observation import Channel, Observation
from leakaudit.target.target import Target


@dataclass(frozen=True, kw_only=True)
class Pruning(Defence):
    """Zero the smallest entries.

    Args:
        prune: Fraction of the entries that is zeroed, in 0..1.
        scope: ``tensor``: that fraction of every tensor; ``update``: of all entries together.
    """

    prune: float
    scope: str = "tensor"

    name: ClassVar[str] = "prune"
    title: ClassVar[str] = "Gradient pruning"
    adaptive: ClassVar[str] = "compares the entries that survived; the others only have to stay below the threshold"
    reference: ClassVar[str] = "Zhu et al., Deep leakage from gradients, NeurIPS 2019, arXiv 1906.08935, section 5"
    order: ClassVar[int] = 20
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune is {self.prune}, expected at least 0 and less than 1")
        if self.scope not in ("tensor", "update"):
            raise ValueError(f"scope is {self.scope!r}, expected tensor or update")

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Keep the entries above the quantile of magnitudes."""
        if self.scope == "tensor":
            return {name: _largest(g, self._kept(g.numel())) for name, g in update.items()}
        flat = torch.cat([g.flatten() for g in update.values()])
        kept = torch.split(_largest(flat, self._kept(flat.numel())), [g.numel() for g in update.values()])
        return {name: part.view_as(g) for part, (name, g) in zip(kept, update.items(), strict=True)}

    def _kept(self, entries: int) -> int:
        return max(1, round(entries * (1 - self.prune)))

    def channel(self, observation: Observation) -> Channel:
        """Compare the survivors with the survivors, and hold the rest below the smallest of them."""
        return DeadZone.of(observation.update)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With that channel; a zero says no more than that the entry was small."""
        target, seen = super().adapt(target, observation)
        return target, replace(seen, pruned=True)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The share of zeros, and that the surviving entries are as they were."""
        entries = flat(shared, shared)
        zeros = float((entries == 0).double().mean())
        floor = sum(g.numel() - self._kept(g.numel()) for g in shared.values()) / entries.numel()
        rounding = len(shared) / entries.numel()  # an entry per tensor
        found = [Check("share of zero entries", f"at least {floor:.4f}", f"{zeros:.4f}", zeros >= floor - rounding)]
        kept = entries != 0
        same = float((entries[kept] - flat(raw, shared)[kept]).norm() / entries.norm().clamp_min(1e-300))
        return [*found, Check("difference of the surviving entries", "0", f"{same:.1e}", same < 1e-5)]

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Nine tenths, and all but a hundredth."""
        return ("prune=0.9", "prune=0.99")


def _largest(tensor: Tensor, count: int) -> Tensor:
    kept = torch.zeros_like(tensor.flatten())
    chosen = tensor.flatten().abs().topk(count).indices
    kept[chosen] = tensor.flatten()[chosen]
    return kept.view_as(tensor)
