"""Partial sharing: some tensors never leave the client (personalised heads, frozen or private layers)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update
from leakaudit.defences.evidence import Check
from leakaudit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class PartialSharing(Defence):
    """Share only tensors whose name fits one of the patterns.

    Args:
        share: Patterns as of a shell, separated by ``|``: ``conv*|fc2.*``.
    """

    share: str

    name: ClassVar[str] = "share"
    title: ClassVar[str] = "Partial sharing"
    adaptive: ClassVar[str] = "compares only the tensors that are shared"
    reference: ClassVar[str] = "Arivazhagan et al., Federated learning with personalization layers, arXiv 1912.00818"
    order: ClassVar[int] = 95
    pure: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Drop what fits no pattern.

        Raises:
            UsageError: Nothing fits.
        """
        kept = {name: g for name, g in update.items() if self.matches(name)}
        if not kept:
            raise UsageError(
                f"--defence share={self.share} matches no shared tensor", f"the tensors are {', '.join(update)}"
            )
        return kept

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """Which tensors are there."""
        expected = [name for name in raw if self.matches(name)]
        return [Check("shared tensors", str(len(expected)), str(len(shared)), set(expected) == set(shared))]

    def matches(self, name: str) -> bool:
        """Whether a tensor is shared."""
        return any(fnmatchcase(name, pattern) for pattern in self.share.split("|"))
