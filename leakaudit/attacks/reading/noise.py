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
"""

from __future__ import annotations

import math

from scipy.stats import chi2
from torch import Tensor

from leakaudit.observation import Observation

FALSE_ALARM = 1e-6
"""Probability that noise alone is taken for a reading, by one test of one update; chosen: one in a million."""


def spread(observation: Observation, name: str) -> float:
    """Standard deviation of what is wrong with an entry of a tensor: noise and rounding; 0 for an exact update."""
    return math.hypot(observation.noise, step_of(observation, name) / math.sqrt(12))


def noise_share(observation: Observation) -> float:
    """Expected norm of noise and rounding over that of the whole update: the least residual that a guess can have."""
    wrong = sum(g.numel() * spread(observation, name) ** 2 for name, g in observation.update.items())
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in observation.update.values()))
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
    return noise * math.sqrt(chi2.isf(FALSE_ALARM / count, width)) + math.sqrt(width) * step / 2


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


def same_limit(width: int, terms: int, tests: int) -> float:
    """Distance that equal sums of `terms` rows (d,) in all keep from each other, over σ; for that many tests."""
    return math.sqrt(terms * chi2.isf(FALSE_ALARM / max(1, tests), width))
