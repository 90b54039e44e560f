r"""Zeros, norms and ranks of an update against the noise that the client is known to have added.

Closed forms rest on exact facts: a row is zero, a matrix has rank B. With known Gaussian noise of standard deviation σ
on every entry, each becomes a test whose error probability is stated:

* a row (d,) of noise alone has :math:`\|\xi\|^2/\sigma^2 \sim \chi^2_d`, so some of V such rows is longer than
  :math:`\sigma\sqrt{\chi^2_{d}(1 - \alpha/V)}` with probability at most α (union bound);
* the largest singular value of an (m, n) matrix of noise alone exceeds :math:`\sigma(\sqrt m + \sqrt n + t)` with
  probability at most :math:`e^{-t^2/2}` (Davidson and Szarek 2001, theorem II.13).

α is `FALSE_ALARM`. Rounding that follows the noise shifts an entry by at most half a step, which the row test adds in
full and the rank test as a uniform error of standard deviation step/√12. Both are on the safe side where a later
defence only shrinks the noise (pruning, clipping).

Weights that were exchanged in floating point leave a rounding of their own in the update, of which
`leakaudit.protocols.base.Protocol.rounding` tells the size. It hides nothing from those who round alike, so that a
reading up to it counts as exact.
"""

from __future__ import annotations

import math

import scipy
from torch import Tensor

from leakaudit.observation import Observation
from leakaudit.target.parts import squared

FALSE_ALARM = 1e-6
"""Probability that noise alone is taken for a reading, by one test of one update; chosen: one in a million."""
TAIL = 1.3
"""Times the largest singular value of rounding alone above which one is more than rounding; chosen on the cells of
`benchmarks/results/local_readers.md`."""
SUMMED = 3e-7
"""The same as a share of the largest, per root of the steps: 2.5 roundings of float32 in the sums of the products."""


def disturbed(observation: Observation, name: str) -> float:
    """Standard deviation of what a client put wrong in an entry of a tensor, by noise and rounding; 0 for none."""
    return math.hypot(observation.noise, step_of(observation, name) / math.sqrt(12))


def spread(observation: Observation, name: str) -> float:
    """Standard deviation of all that is wrong with an entry: beside that, the rounding of exchanged weights."""
    return math.hypot(disturbed(observation, name), observation.exchange.get(name, 0.0))


def exchanged_misfit(observation: Observation, *names: str) -> float:
    """Expected norm of the rounding of exchanged weights, over that of these tensors; 0 where a gradient was sent.

    Entries that did not move carry none.
    """
    chosen = [(observation.update[name], observation.exchange.get(name, 0.0)) for name in names]
    wrong = sum(int(tensor.count_nonzero()) * sigma**2 for tensor, sigma in chosen if sigma > 0)
    norm = math.sqrt(sum(squared(tensor) for tensor, _ in chosen)) if wrong > 0 else 1.0
    return math.sqrt(wrong) / norm if norm > 0 else 0.0


def noise_share(observation: Observation) -> float:
    """Expected norm of noise and rounding by a client over that of the whole update: the least residual of a guess."""
    wrong = sum(g.numel() * disturbed(observation, name) ** 2 for name, g in observation.update.items())
    norm = math.sqrt(sum(map(squared, observation.update.values())))
    return math.sqrt(wrong) / norm if norm > 0 else 0.0


def row_limit(count: int, width: int, noise: float, step: float = 0.0) -> float:
    """Norm above which a row (d,) among V is more than noise; 0 without noise, where such a row is zero.

    Args:
        count: V.
        width: d.
        noise: σ.
        step: Of a rounding after the noise, between neighbouring values.
    """
    if noise == 0:
        return 0.0
    return noise * math.sqrt(scipy.special.chdtri(width, FALSE_ALARM / count)) + math.sqrt(width) * step / 2


def live_rows(rows: Tensor, noise: float = 0.0, step: float = 0.0) -> Tensor:
    """Which rows of a matrix (V, d) are more than noise, as numbers, ascending."""
    limit = row_limit(rows.shape[0], rows.shape[1], noise, step)
    moved: Tensor = rows.abs().sum(1) > 0 if limit == 0 else rows.double().norm(dim=1) > limit
    return moved.nonzero().flatten()


def step_of(observation: Observation, name: str) -> float:
    """Step of the rounding of a tensor; 0 where it was not rounded."""
    return (observation.rounding or {}).get(name, 0.0)


def rank_limit(rows: int, columns: int) -> float:
    """Singular value above which a matrix (rows, columns) is more than noise, over the noise's standard deviation."""
    return math.sqrt(rows) + math.sqrt(columns) + math.sqrt(-2 * math.log(FALSE_ALARM))


def exchanged_rank(singular: Tensor, rows: int, columns: int, sigma: float, steps: int) -> int:
    """Rank of a matrix of which a rounding of exchanged weights is wrong, from its singular values (descending).

    Args:
        singular: Singular values.
        rows: Of the matrix.
        columns: Of the matrix.
        sigma: Standard deviation of the rounding of an entry.
        steps: Local steps behind it.
    """
    random = TAIL * sigma * (math.sqrt(rows) + math.sqrt(columns))
    largest = float(singular[0]) if len(singular) else 0.0
    return int((singular > max(random, SUMMED * math.sqrt(steps) * largest)).sum())


def same_limit(width: int, terms: int, tests: int) -> float:
    """Distance that equal sums of `terms` rows (d,) in all keep from each other, over σ; for that many tests."""
    return math.sqrt(terms * scipy.special.chdtri(width, FALSE_ALARM / max(1, tests)))
