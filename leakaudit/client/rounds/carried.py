r"""Momentum that a client keeps from one round to the next, seen in two of its rounds.

A new optimizer in every round begins with a momentum of zero, and what a client sends is explained by the data of that
round alone. One that is kept adds what is left of the round before: after a single step there,

.. math:: \Delta_2 = \mu\,(1 + \mu + \dots)\,\Delta_1 + \dots

so a row that no sample of the second round touched (of a token that does not occur, of a unit that was off) repeats the
row of the first, and all such rows by the same factor. After K steps there, the factor depends on the one step k that
touched the row,

.. math:: \rho_k = \mu^{K-k} \, (1 - \mu^{K'}) / (1 - \mu^{K-k})

for K' steps of the second round. Rows that one sample touched in both rounds are parallel too, each by a factor of its
own: only factors that follow from the momentum, or else one that most parallel rows share, to rounding, are momentum.
Where *every* row is parallel (a client of one sample) nothing is said.

Fails where every row was touched in the second round, and for rows that several steps of the first touched; so finding
nothing is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from leakaudit.client.rounds.decay import SHORTEST
from leakaudit.client.rounds.kinds import Kind

FEWEST = 3
"""Rows that must agree on one factor; chosen: of three factors spread over 5 % two agree by chance with 2e-5."""
DIGITS = 18
"""Digits of a round's number at most; chosen, those of 64 bits: Python refuses to read thousands."""
SAME = 1e-3
"""Largest relative difference of one row's factor from the median, and largest sine of the angle between its two
changes; chosen, ten times what rounding leaves of rows that are used."""
SHARE = 0.5
"""Least share of the parallel rows that agree; chosen: of rows that samples touched, next to none do."""


@dataclass(frozen=True, eq=False)
class Trained:
    """One round of a client.

    Args:
        label: Its folder.
        told: What its document says.
        before: The weights that it began with, by name.
        shared: What the client sent.
        kind: What that is.
        momentum: Of its optimizer, as far as it is told.
        steps: Local steps, where they are known.
    """

    label: str
    told: Mapping[str, Any]
    before: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    kind: Kind
    momentum: float = 0.0
    steps: int | None = None

    def changes(self) -> dict[str, Tensor]:
        """Weights after minus weights before; nothing of a gradient."""
        if self.kind == "gradient":
            return {}
        if self.kind == "delta":
            return dict(self.shared)
        return {name: tensor - self.before[name].to(tensor) for name, tensor in self.shared.items()}


@dataclass(frozen=True)
class Carried:
    """Two rounds between which momentum was kept.

    Args:
        earlier: Folder of the first.
        later: Of the second.
        tensor: Whose rows show it.
        rows: How many agree.
        factor: By which they repeat the first.
    """

    earlier: str
    later: str
    tensor: str
    rows: int
    factor: float


def carried_between(rounds: Sequence[Trained]) -> Iterator[Carried]:
    """Pairs of consecutive rounds of one client that show it; those without client and number are left out."""
    clients: dict[str, list[tuple[int, Trained]]] = {}
    for one in rounds:
        number = _number(one.told.get("round"))
        if number is not None and one.told.get("client") is not None:
            clients.setdefault(str(one.told["client"]), []).append((number, one))
    for own in clients.values():
        own.sort(key=lambda item: item[0])
        for (first, earlier), (second, later) in pairwise(own):
            if first < second and (found := _repeated(earlier, later)) is not None:
                yield found


def _number(value: Any) -> int | None:
    told = isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and len(value) <= DIGITS)
    return int(value) if told else None


def _repeated(earlier: Trained, later: Trained) -> Carried | None:
    """The tensor with the most rows that repeat those of the round before by one factor."""
    first, second = earlier.changes(), later.changes()
    best: Carried | None = None
    predicted = _factors(earlier, later)
    for name, tensor in second.items():
        if name not in first or tensor.dim() < 2 or tensor[0].numel() < SHORTEST:
            continue
        weights = torch.maximum(earlier.before[name].abs(), later.before[name].abs())
        rows, factor = _agreeing(first[name].flatten(1), tensor.flatten(1), weights.flatten(1), predicted)
        if rows >= FEWEST and (best is None or rows > best.rows):
            best = Carried(earlier.label, later.label, name, rows, factor)
    return best


def _factors(earlier: Trained, later: Trained) -> Tensor:
    """The factors that rows of one step each repeat by, where momentum and steps are told; else none."""
    mu, there, here = earlier.momentum, earlier.steps, later.steps
    if not mu or not there or not here:
        return torch.empty(0, dtype=torch.float64)
    left = torch.arange(1, there + 1, dtype=torch.float64)  # K - k
    return mu**left * (1 - mu**here) / (1 - mu**left)


def _agreeing(first: Tensor, second: Tensor, weights: Tensor, predicted: Tensor) -> tuple[int, float]:
    """How many rows (R, n) repeat the first by momentum, and their median factor; 0 where that says nothing."""
    a, b = first.double().cpu(), second.double().cpu()
    rounding = torch.finfo(first.dtype).eps * weights.double().cpu().norm(dim=1)
    moved = (a.norm(dim=1) > 0) & (b.norm(dim=1) > 0)
    factor = (a * b).sum(1) / a.square().sum(1).clamp_min(1e-300)
    miss = (b - factor[:, None] * a).norm(dim=1) / b.norm(dim=1).clamp_min(1e-300)
    error = rounding * (1 + factor.abs()) / b.norm(dim=1).clamp_min(1e-300)
    parallel = moved & (factor > 0) & (miss <= SAME) & (error <= SAME)
    if int(parallel.sum()) < FEWEST or int(parallel.sum()) == int(moved.sum()):
        return 0, 0.0
    found = factor[parallel]
    for wanted in (predicted, found.median()[None]):
        near = ((found[:, None] - wanted).abs() <= SAME * wanted).any(1)
        if int(near.sum()) >= max(FEWEST, SHARE * len(found)):
            return int(near.sum()), float(found[near].median())
    return 0, 0.0
