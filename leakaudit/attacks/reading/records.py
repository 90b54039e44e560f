"""How many distinct records are behind an update, from the rank of a layer that reads the input.

A linear layer's gradient on one token per sample is ``Δᵀ X``: its rank is the number of distinct samples, as long as
there are fewer than units and entries, and their errors are independent. After local steps of SGD it is the same
number, for whatever epochs and batch sizes, as each visit of a sample adds to the same outer product.

It is a lower bound on the records: equal ones count once, and so does one whose loss is too small to be seen. Adam and
its kin leave a full rank that means nothing. Nothing is said where the number reaches units or entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from leakaudit.attacks.reading.factors import rank_of
from leakaudit.attacks.reading.first_layer import find_linears
from leakaudit.attacks.reading.noise import live_rows, step_of
from leakaudit.observation import Observation
from leakaudit.target.target import Target


@dataclass(frozen=True)
class Records:
    """A count of distinct records.

    Args:
        rank: Of the layer's update: at least so many records are behind it.
        layer: Name of its weight.
    """

    rank: int
    layer: str


def distinct_records(target: Target, observation: Observation) -> Records | None:
    """The number of distinct records, or ``None`` where no layer tells it."""
    if not observation.protocol.linear or observation.one_bit or observation.pruned:
        return None
    for entry in find_linears(target):
        if entry.weight not in observation.update:
            continue
        whole = entry.rows(observation.update).double()
        rows = whole[live_rows(whole, observation.noise, step_of(observation, entry.weight))]
        if not len(rows):
            continue
        gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        singular = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()
        rank = rank_of(singular, (whole.shape[0], whole.shape[1]), observation, entry.weight)
        if 0 < rank < min(rows.shape):
            return Records(rank, entry.weight)
    return None
