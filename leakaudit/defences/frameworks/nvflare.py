r"""Client filters of NVFlare: PercentilePrivacy and ExcludeVars (version 2.9, its documentation and code).

PercentilePrivacy (Shokri and Shmatikov 2015, doi 10.1145/2810103.2813687) divides by the number of local steps where
the client states it, zeroes what is smaller than a percentile of all magnitudes, and cuts the rest at γ. It is no
random mechanism, and the survivors are exact up to the cut. Single numbers pass as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Update
from leakaudit.defences.evidence import Check, flat
from leakaudit.defences.frameworks.base import Arrays, FrameworkFilter, arrays_of, tensors_like
from leakaudit.defences.frameworks.weights import WeightFilter
from leakaudit.defences.survivors import LargestShare
from leakaudit.errors import UsageError
from leakaudit.observation import Channel

NOTHING = "NVFlare then lets the update pass unfiltered"


@dataclass(frozen=True, kw_only=True)
class PercentilePrivacy(WeightFilter):
    """Share the largest changes, cut at a bound.

    Args:
        percentile: Of all magnitudes, in 0..100: smaller ones are zeroed; NVFlare's default, by convention.
        gamma: γ, largest magnitude that is shared; NVFlare's default, by convention.
    """

    percentile: float = 10.0
    gamma: float = 0.01

    name: ClassVar[str] = "nvflare:PercentilePrivacy"
    title: ClassVar[str] = "NVFlare PercentilePrivacy"
    adaptive: ClassVar[str] = (
        "compares the entries that survived, cut alike; the others only have to stay below the smallest survivor"
    )
    reference: ClassVar[str] = "Shokri and Shmatikov, Privacy-preserving deep learning, CCS 2015"
    units: ClassVar[str] = (
        "percentile is in 0..100 over all tensors together; gamma is a difference of weights per step"
    )
    remains: ClassVar[str] = "entries that survived below the cut are exact, and the sign of those that were cut"
    order: ClassVar[int] = 96
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_common()
        if not 0 <= self.percentile <= 100 or not 0 < self.gamma < math.inf:
            raise ValueError(
                f"percentile={self.percentile:g}, gamma={self.gamma:g}: expected 0 to 100 and above 0; {NOTHING}"
            )

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Divide, zero, cut, multiply."""
        given = self._given(update, step.before)
        return self._sent(tensors_like(self.filtered(arrays_of(given)), given), step.before)

    def filtered(self, arrays: Arrays) -> dict[str, NDArray[np.floating]]:
        """The arrays as the filter shares them; single numbers pass as they are."""
        each = {name: array / self.steps for name, array in arrays.items()}
        magnitudes = np.concatenate([np.abs(array).ravel() for array in each.values()])
        cutoff = np.percentile(magnitudes, self.percentile)
        found: dict[str, NDArray[np.floating]] = {}
        for name, array in each.items():
            if array.ndim:
                kept = np.where((array > -cutoff) & (array < cutoff), np.zeros_like(array), array)
                array = np.clip(kept, -self.gamma, self.gamma)
            found[name] = array * self.steps
        return found

    def _channel_of(self, shown: Mapping[str, Tensor]) -> Channel:
        return LargestShare.of({n: t for n, t in shown.items() if t.dim()}, self._largest())

    def _largest(self) -> float:
        return self.gamma * self.steps

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """No entry beyond the cut; of differences as many zeros as the percentile says."""
        if self.on == "weights":
            return []
        entries = flat(shared, [n for n, t in shared.items() if t.dim()])
        largest, bound = float(entries.abs().max()), self._largest()
        zeros = float((entries == 0).double().mean())
        floor = self.percentile / 100 - 2 / entries.numel()  # the percentile lies between two entries
        share = Check("share of zero entries", f"at least {floor:.4f}", f"{zeros:.4f}", zeros >= floor)
        cut = Check("largest magnitude", f"at most {bound:g}", f"{largest:.4g}", largest <= bound * (1 + 1e-4))
        return [cut, share]


@dataclass(frozen=True, kw_only=True)
class ExcludeVars(FrameworkFilter):
    """Leave tensors out.

    Args:
        exclude_vars: A regular expression that is searched for in names, or names as ``[a,b]``.
    """

    exclude_vars: str

    name: ClassVar[str] = "nvflare:ExcludeVars"
    title: ClassVar[str] = "NVFlare ExcludeVars"
    adaptive: ClassVar[str] = "compares only the tensors that are shared"
    reference: ClassVar[str] = "NVFlare 2.9, nvflare.app_common.filters.exclude_vars"
    remains: ClassVar[str] = "every tensor that is shared is exact"
    order: ClassVar[int] = 96
    pure: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    like: ClassVar[str] = "share"

    def __post_init__(self) -> None:
        if not self.exclude_vars:
            raise ValueError(f"exclude_vars is empty, expected a regular expression or [names]; {NOTHING}")
        try:
            re.compile(self.exclude_vars)
        except re.error as error:
            raise ValueError(f"exclude_vars is no regular expression: {error}") from error

    def excludes(self, name: str) -> bool:
        """Whether a tensor is left out."""
        text = self.exclude_vars
        if text.startswith("[") and text.endswith("]"):
            return name in [part.strip() for part in text[1:-1].split(",")]
        return re.search(text, name) is not None

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Drop what fits.

        Raises:
            UsageError: Nothing is left, or nothing fits, of which NVFlare only warns.
        """
        kept = {name: g for name, g in update.items() if not self.excludes(name)}
        if not kept or len(kept) == len(update):
            what = "every" if not kept else "no"
            raise UsageError(f"--defence {self} excludes {what} shared tensor", f"the tensors are {', '.join(update)}")
        return kept

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """Which tensors are there."""
        expected = {name for name in raw if not self.excludes(name)}
        return [Check("shared tensors", str(len(expected)), str(len(shared)), expected == set(shared))]
