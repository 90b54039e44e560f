"""The interval of the share of samples that leak. Imports no tensors, since reports of stored documents need it too."""

from __future__ import annotations

from scipy.stats import binomtest

CONFIDENCE_LEVEL = 0.95
"""Of the interval of the share of samples that leak, by convention."""
FEWEST_FOR_INTERVAL = 5
"""Samples below which no interval is given; chosen: five of five still leave 48 to 100 %."""


def leak_interval(leaked: int, attacked: int, fewest: int = FEWEST_FOR_INTERVAL) -> tuple[float, float] | None:
    """The Clopper–Pearson interval of the share of samples that leak; ``None`` below `fewest` samples.

    Exact and two-sided at 95 per cent: the shares p under which k or more, and k or fewer, of n samples leak with a
    probability of at least 2.5 per cent each.
    """
    if attacked < fewest:
        return None
    found = binomtest(leaked, attacked).proportion_ci(CONFIDENCE_LEVEL, method="exact")
    return float(found.low), float(found.high)
