r"""SVTPrivacy, NVFlare's client filter by the sparse vector technique (version 2.9, its documentation and code).

It draws a threshold, lets every entry through whose magnitude with Laplace noise exceeds it, again and again until a
fraction of all entries has, and shares that many of them, cut at γ, with Laplace noise (Li et al. 2017, arXiv
1603.01699, algorithm 7 is what it follows). Its own accountant adds up

.. math:: \varepsilon = \varepsilon_{threshold} + \varepsilon_{query} + c \cdot \text{noise\_var}

a round for c entries: some hundreds for any network, which bounds nothing. Single numbers pass without noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Update
from leakaudit.defences.evidence import Check
from leakaudit.defences.frameworks.base import Arrays, arrays_of, random_state, tensors_like
from leakaudit.defences.frameworks.weights import WeightFilter
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.survivors import Cut, Support
from leakaudit.document.status import MisuseKind
from leakaudit.errors import UsageError
from leakaudit.observation import Chained, Channel, Observation
from leakaudit.target.target import Target

CHUNK = 1_000_000
"""Entries that SVTPrivacy draws noise for at a time: part of its sequence of random numbers, as NVFlare's code has it;
a
measure against memory there, by convention."""
UNREACHED = 40.0
"""Scales of Laplace noise above which an entry is never accepted: a chance of e^-40 for each, by definition."""
LONG_TAIL = 3.0
"""Standard deviations of Laplace noise that attackers count as one of Gaussian noise; chosen: closed forms test against
Gaussian tails at one in a million, and with it a single Laplace entry stays below such a limit as well."""


@dataclass(frozen=True, kw_only=True)
class SVTPrivacy(WeightFilter):
    """Share some entries that exceed a noisy threshold, cut and with Laplace noise.

    Args:
        fraction: Of all entries that is shared.
        epsilon: Budget of threshold and queries.
        noise_var: Budget of the noise of each shared entry, whatever its name says.
        gamma: γ, largest magnitude that is shared, in units of the weights.
        tau: Threshold before its noise.
        replace: Whether entries are drawn with replacement: then fewer different ones are shared.
        epsilon_threshold: Budget of the threshold; 0 for the usual split.
        epsilon_query: Budget of the queries; 0 likewise.
        epsilon_release: Budget of the noise of all shared entries; 0 for what `noise_var` says.
        Defaults: NVFlare's own, by convention.
    """

    fraction: float = 0.1
    epsilon: float = 0.1
    noise_var: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6
    replace: bool = True
    epsilon_threshold: float = 0.0
    epsilon_query: float = 0.0
    epsilon_release: float = 0.0

    name: ClassVar[str] = "nvflare:SVTPrivacy"
    title: ClassVar[str] = "NVFlare SVTPrivacy"
    adaptive: ClassVar[str] = "compares the entries that were shared, cut alike, and weighs its prior by their noise"
    reference: ClassVar[str] = "Li et al., Privacy-preserving federated brain tumour segmentation, arXiv 1910.00962"
    units: ClassVar[str] = (
        "gamma and tau are differences of weights per step; noise_var is a budget ε per shared entry and no "
        "variance: the "
        "scale of the Laplace noise is 2 gamma / noise_var"
    )
    remains: ClassVar[str] = "which entries are shared says little, but single numbers pass exact"
    order: ClassVar[int] = 96
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_common()
        positive = {"epsilon": self.epsilon, "gamma": self.gamma}
        if not self.epsilon_release:
            positive["noise_var"] = self.noise_var
        for key, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{key} is {value:g}, expected a finite number above 0")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction:g}, expected above 0 and at most 1")
        least = min(self.epsilon_threshold, self.epsilon_query, self.epsilon_release)
        if least < 0 or self.epsilon_threshold + self.epsilon_query > self.epsilon * (1 + 1e-6):
            raise ValueError("epsilon_threshold and epsilon_query are parts of epsilon, expected at least 0 each")
        if self.epsilon_threshold and self.epsilon_query:
            whole = self.epsilon_threshold + self.epsilon_query
            if not math.isclose(whole, self.epsilon, rel_tol=1e-5):
                raise ValueError(f"epsilon_threshold + epsilon_query is {whole:g}, expected epsilon = {self.epsilon:g}")

    def shares(self, entries: int) -> int:
        """c: how many entries are shared of so many."""
        return min(math.ceil(entries * self.fraction), entries)

    def budgets(self, count: int) -> tuple[float, float, float]:
        """ε of the threshold, of the queries and of the release, for c shared entries."""
        ratio = (2.0 * count) ** (2.0 / 3.0)  # the split that minimises the variance of the comparison
        threshold = self.epsilon_threshold or (
            self.epsilon - self.epsilon_query if self.epsilon_query else self.epsilon / (1.0 + ratio)
        )
        return threshold, self.epsilon_query or self.epsilon - threshold, self.epsilon_release or count * self.noise_var

    def scale(self, count: int) -> float:
        """Of the Laplace noise on a shared entry, per step."""
        return self.gamma * 2.0 * count / self.budgets(count)[2]

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Select, cut, add noise."""
        given = self._given(update, step.before)
        found = self.filtered(arrays_of(given), random_state(generator))
        return self._sent(tensors_like(found, given), step.before)

    def filtered(self, arrays: Arrays, random: np.random.RandomState) -> dict[str, NDArray[np.floating]]:
        """The arrays as the filter shares them, by the sequence of random numbers of NVFlare's.

        Args:
            arrays: By name.
            random: Legacy generator of numpy.
        """
        pieces = [_Piece(name, part) for name in sorted(arrays) for part in _parts(arrays[name])]
        count = self.shares(sum(piece.values.size for piece in pieces))
        self._select(pieces, count, random)
        owed = _spread(
            [sum(p.accepted for p in pieces if p.name == n) for n in _names(pieces)], count, random, self.replace
        )
        found = {
            name: np.array(arrays[name]) if arrays[name].ndim == 0 else np.zeros_like(arrays[name]) for name in arrays
        }
        for name, selected in zip(_names(pieces), owed, strict=True):
            self._release(found[name], [p for p in pieces if p.name == name], selected, self.scale(count), random)
        return found

    def _select(self, pieces: list[_Piece], count: int, random: np.random.RandomState) -> None:
        """Ask every entry that was not accepted yet, pass after pass, until so many are."""
        threshold_budget, query_budget, _ = self.budgets(count)
        threshold = self.tau + random.laplace(scale=self.gamma / threshold_budget)
        scale = self.gamma * 2.0 * count / query_budget
        if threshold - self.gamma > UNREACHED * scale:
            raise UsageError(f"--defence {self}: no entry reaches tau={self.tau:g}", "lower tau, or raise gamma")
        while sum(piece.accepted for piece in pieces) < count:
            for piece in pieces:
                open_ones = np.flatnonzero(~piece.mask)
                if not open_ones.size:
                    continue
                values = piece.values[open_ones].astype(np.float64) / self.steps
                answers = np.abs(np.clip(values, -self.gamma, self.gamma))
                answers += random.laplace(scale=scale, size=values.size)
                piece.mask[open_ones[answers >= threshold]] = True

    def _release(
        self,
        found: NDArray[np.floating],
        pieces: list[_Piece],
        selected: int,
        scale: float,
        random: np.random.RandomState,
    ) -> None:
        """Draw so many accepted entries of one tensor and write them, cut and noised, into the zeros."""
        if found.ndim == 0:
            return
        left, output, begin = sum(piece.accepted for piece in pieces), found.reshape(-1), 0
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            drawn = selected if last else _of_rest(piece.accepted, left, selected, random, self.replace)
            if drawn:
                chosen = random.choice(np.flatnonzero(piece.mask), size=drawn, replace=self.replace)
                noise = random.laplace(scale=scale, size=drawn)
                values = piece.values[chosen].astype(np.float64) / self.steps
                output[begin + chosen] = (np.clip(values, -self.gamma, self.gamma) + noise) * self.steps
            left, selected, begin = left - piece.accepted, selected - drawn, begin + piece.values.size

    def _channel_of(self, shown: Mapping[str, Tensor]) -> Channel:
        tensors = {n: t for n, t in shown.items() if t.dim()}
        return Chained(Support.of(tensors), Cut(self._largest()))

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With the noise of the shared entries, as Gaussian noise whose tail is as long."""
        entries = sum(t.numel() for t in observation.update.values())
        target, seen = super().adapt(target, observation)
        level = LONG_TAIL * math.sqrt(2) * self.scale(self.shares(entries)) * self.steps
        return target, replace(seen, noise=math.hypot(seen.noise, level))

    def _largest(self) -> float:
        return self.gamma * self.steps

    def unbounded(self, entries: int) -> str:
        """What its own accountant says of a round."""
        count = self.shares(entries)
        threshold, query, release = self.budgets(count)
        return (
            f"by NVFlare's own accountant a round costs ε = {threshold + query + release:.4g} (δ = 0), "
            f"{release:.4g} of it "
            f"for the noise of {count} shared entries, which bounds nothing"
        )

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """Full weights, and single numbers that pass."""
        yield from super().misuses(practice)
        if practice.scalars:
            yield Misuse(
                MisuseKind.PASSED_UNNOISED,
                f"{', '.join(practice.scalars[:3])}, a single number, passes without noise.",
                "certified",
            )

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """No more entries than it shares."""
        if self.on == "weights":
            return []
        entries = sum(t.numel() for t in raw.values())
        shown = sum(int(t.ne(0).sum()) for t in shared.values() if t.dim())
        most = self.shares(entries)
        return [Check("entries that are not zero", f"at most {most}", str(shown), shown <= most)]


@dataclass(eq=False)
class _Piece:
    """A part of a flat tensor, with which of its entries were accepted."""

    name: str
    values: NDArray[np.floating]

    def __post_init__(self) -> None:
        self.mask = np.zeros(self.values.size, dtype=bool)

    @property
    def accepted(self) -> int:
        return int(self.mask.sum())


def _parts(array: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    values = array.reshape(-1)
    return (values[begin : begin + CHUNK] for begin in range(0, values.size, CHUNK))


def _names(pieces: list[_Piece]) -> list[str]:
    return list(dict.fromkeys(piece.name for piece in pieces))


def _spread(counts: list[int], total: int, random: np.random.RandomState, replace: bool) -> list[int]:
    """How many of `total` draws from groups of these sizes come from each group; the last takes what is left."""
    found, rest, left = [], sum(counts), total
    for count in counts[:-1]:
        drawn = _of_rest(count, rest, left, random, replace)
        found.append(drawn)
        rest, left = rest - count, left - drawn
    return [*found, left]


def _of_rest(count: int, rest: int, left: int, random: np.random.RandomState, replace: bool) -> int:
    """How many of so many draws come from `count` of `rest` entries."""
    if left == 0 or count == 0:
        return 0
    if replace:
        return int(random.binomial(left, count / rest))
    return int(random.hypergeometric(ngood=count, nbad=rest - count, nsample=left))
