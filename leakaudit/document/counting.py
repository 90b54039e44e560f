"""A number with what it counts, for sentences."""

from __future__ import annotations

THOUSANDS = 10_000
"""From here on digits are grouped; chosen, as most style guides have it."""


def grouped(amount: int) -> str:
    """``3072``, ``12,000``."""
    return f"{amount:,}" if abs(amount) >= THOUSANDS else str(amount)


def count(amount: int, singular: str, plural: str = "") -> str:
    """``1 sample``, ``3 samples``, ``12,000 samples``.

    Args:
        amount: How many.
        singular: What one is called.
        plural: What several are called; with an s by default.
    """
    return f"{grouped(amount)} {singular if amount == 1 else plural or singular + 's'}"
