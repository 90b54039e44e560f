"""A layer's gradient as a product of thin matrices, its rank, and samples and errors from a choice of columns.

The rank of ``∂ℓ/∂W = Δᵀ X`` is the number of distinct samples, where their errors are independent. Over local steps of
SGD it still is: every visit of a sample adds to its column of errors, and nothing else. What is more than rounding
depends on how the update was shared: a gradient shows a gap, weights have a precision of their own, and noise a known
size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakaudit.attacks.reading.first_layer import Entry
from leakaudit.attacks.reading.noise import disturbed, exchanged_rank, live_rows, rank_limit, spread, step_of
from leakaudit.observation import Observation

MAX_BATCH = 64
"""Ranks beyond this are not looked for; chosen, above the 25 or so at which the search fails (arXiv 2403.03945)."""
NOISE_MARGIN = 10.0
"""Entries of U q below this many times the rounding noise count as zero; the margin is chosen."""
KNOWN_MARGIN = 4.0
"""The same where the noise is known; chosen: the share of a Gaussian's entries beyond is 6e-5."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The layer's gradient as a product: ``G ≈ left · right`` of rank B, live rows only.

    Args:
        left: Orthonormal columns U (m', B).
        gradient: G (m', n).
        bias: ∂ℓ/∂b (m',).
        rows: Row numbers in the layer (m',).
        floor: Rounding noise relative to the weakest sample: the relative accuracy that a sample can be read with.
        margin: How many times the noise still counts as zero.
    """

    left: Tensor
    gradient: Tensor
    bias: Tensor
    rows: Tensor
    floor: float
    margin: float = NOISE_MARGIN

    @property
    def noise(self) -> float:
        """Size of an entry of U q, q of unit norm, that counts as zero."""
        return self.margin * self.floor / math.sqrt(len(self.rows))


def numerical_rank(singular: Tensor) -> int:
    """Rank at the widest gap of singular values (descending) that reaches rounding noise; 0 for a zero matrix."""
    values = singular[: MAX_BATCH + 1].double()
    if float(values[0]) == 0:
        return 0
    values = (values / values[0]).clamp_min(1e-14)
    gaps = values[:-1] / values[1:]
    return int(gaps.argmax()) + 1


def factorize(observation: Observation, entry: Entry) -> tuple[Factors, int]:
    """The factors of the layer's gradient, and its numerical rank: the batch size, or the number of distinct samples.

    Samples that the batch holds several times add to one column of errors; dropout masks make them differ again.
    """
    gradient = entry.rows(observation.update).double()
    rows = live_rows(gradient, observation.noise, step_of(observation, entry.weight))
    shape, gradient = gradient.shape, gradient[rows]
    if len(rows) == 0:
        return Factors(gradient[:, :0], gradient, gradient[:, 0], rows, 1.0), 0
    # The Gram matrix squares the condition number, which float64 can afford: the data are float32.
    values, vectors = torch.linalg.eigh(gradient @ gradient.T)
    singular, left = values.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    rank = rank_of(singular, (shape[0], shape[1]), observation, entry.weight)
    size = max(1, min(rank, observation.batch_size))
    floor, margin = _floor(singular, size, observation, entry.weight)
    bias = observation.update[str(entry.bias)].reshape(-1).double()[rows]
    return Factors(left[:, :size].contiguous(), gradient, bias, rows, floor, margin), rank


def rank_of(singular: Tensor, shape: tuple[int, int], observation: Observation, name: str) -> int:
    """Rank of a tensor of the update, from its singular values (descending).

    Args:
        singular: Singular values of its rows that are not zero.
        shape: Of the whole matrix.
        observation: What is known to be wrong with it.
        name: Of the tensor.
    """
    if disturbed(observation, name) > 0:
        return int((singular > spread(observation, name) * rank_limit(*shape)).sum())
    exchanged = observation.exchange.get(name, 0.0)
    if exchanged > 0:
        return exchanged_rank(singular, *shape, exchanged, observation.protocol.steps)
    return numerical_rank(singular)


def _floor(singular: Tensor, size: int, observation: Observation, name: str) -> tuple[float, float]:
    """What is wrong relative to the weakest of `size` samples, and how many times that counts as zero."""
    weakest = float(singular[min(size, len(singular)) - 1].clamp_min(1e-300))
    wrong = spread(observation, name) * math.sqrt(len(singular)) / weakest
    if disturbed(observation, name) > 0:
        return wrong, KNOWN_MARGIN
    next_value = float(singular[size]) if size < len(singular) else 0.0
    return max(next_value / weakest, wrong, 1e-8), NOISE_MARGIN


def disaggregate(factors: Factors, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Samples (B, n) and errors (B, m') from all B columns; the scale of each from the bias gradient."""
    directions = factors.left @ columns.T  # (m', B)
    scale = torch.linalg.lstsq(directions, factors.bias[:, None]).solution[:, 0]
    errors = directions * scale
    return torch.linalg.lstsq(errors, factors.gradient).solution, errors.T
