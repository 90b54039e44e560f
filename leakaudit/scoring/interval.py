"""The interval of the share of samples that leak. Imports no tensors, since reports of stored documents need it too."""

from __future__ import annotations

import scipy

CONFIDENCE_LEVEL = 0.95
"""Of the interval of the share of samples that leak, by convention."""
FEWEST_FOR_INTERVAL = 5
"""Samples below which no interval is given; chosen: five of five still leave 48 to 100 %."""


def leak_interval(leaked: int, attacked: int, fewest: int = FEWEST_FOR_INTERVAL) -> tuple[float, float] | None:
    """The Clopper–Pearson interval of the share of samples that leak; ``None`` below `fewest` samples.

    Exact and two-sided at 95 per cent: the shares p under which k or more, and k or fewer, of n samples leak with a
    probability of at least 2.5 per cent each.
    """
    return clopper_pearson(leaked, attacked) if attacked >= fewest else None


def clopper_pearson(successes: int, trials: int, level: float = CONFIDENCE_LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a share, by quantiles of beta distributions (Clopper and Pearson 1934).

    (`scipy.stats`, which has it too, takes as long to import as torch does.)
    """
    failures, tail = trials - successes, (1 - level) / 2
    low = scipy.special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = scipy.special.betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)
