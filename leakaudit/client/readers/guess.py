"""What the columns of encoded rows are, where nothing says it: categories by their zeros and ones, the rest numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leakaudit.domains.schema import Column
from leakaudit.errors import BatchError

ROUNDED = 1e-4
"""How far an entry of a category may be from 0 and 1 by rounding; chosen."""


def guessed_columns(rows: np.ndarray[Any, Any], names: Sequence[str] = ()) -> tuple[Column, ...]:
    """Columns of rows (N, D) as the model takes them.

    The shortest run of neighbouring columns that hold 0 and 1 alone, and whose sum is 1 in every row, is a category; a
    column of zeros behind it is a level that does not occur. Everything else is a number, with the range of the file,
    or 0..1 where it stays inside.

    Args:
        rows: Encoded.
        names: Of the D columns; others are made up.
    """
    size = rows.shape[1]
    named = len(names) == size
    known = list(names) if named else [f"x{i + 1}" for i in range(size)]
    binary = ((np.abs(rows) <= ROUNDED) | (np.abs(rows - 1) <= ROUNDED)).all(0)
    found: list[Column] = []
    place = 0
    while place < size:
        stop = _end_of_category(rows, binary, place)
        if stop is None:
            found.append(number_column(known[place], rows[:, place]))
            place += 1
        else:
            found.append(_category(known[place:stop], named))
            place = stop
    return tuple(found)


def _end_of_category(rows: np.ndarray[Any, Any], binary: np.ndarray[Any, Any], start: int) -> int | None:
    """Behind the last entry of the category that begins here, or ``None``."""
    total = np.zeros(len(rows))
    for stop in range(start, rows.shape[1]):
        if not binary[stop]:
            return None
        total = total + rows[:, stop].round()
        if total.max() > 1:
            return None
        if total.min() == 1 and stop > start:
            end = stop + 1
            while end < rows.shape[1] and not rows[:, end].any():
                end += 1
            return end
    return None


def _category(names: Sequence[str], named: bool) -> Column:
    """Named by what its entries' names have in common, as pandas makes them, else by the first and the last."""
    prefix = _common(names) if named else ""
    stem = prefix.rstrip("_=: .-")
    if len(stem) < 2:
        return Column(f"{names[0]} to {names[-1]}", "category", levels=tuple(names))
    return Column(stem, "category", levels=tuple(name[len(prefix) :] or name for name in names))


def _common(names: Sequence[str]) -> str:
    """The letters that all names begin with."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def number_column(name: str, values: np.ndarray[Any, Any]) -> Column:
    """A number with the range of its values (N,), or 0..1 where they stay inside."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return Column(name)
    return Column(name, "number", low, high if high > low else low + 1)


def one_hot(
    rows: np.ndarray[Any, Any], blocks: Sequence[tuple[int, int]], names: Sequence[str], where: str
) -> np.ndarray[Any, Any]:
    """The rows (N, D), with every category exactly one level.

    Raises:
        BatchError: A row has none or several; names the category.
    """
    exact = rows.copy()
    for (start, stop), name in zip(blocks, names, strict=True):
        entries = rows[:, start:stop]
        whole = entries.round()
        wrong = (np.abs(entries - whole) > ROUNDED).any(1) | (whole.sum(1) != 1) | (whole < 0).any(1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise BatchError(
                f"{where}: the {stop - start} entries of {name!r} in row {row} are no single level: one must be 1, the "
                f"others 0, and they sum to {entries[row].sum():g}",
                "store a category as one column per level, in the order of the schema",
            )
        exact[:, start:stop] = whole
    result: np.ndarray[Any, Any] = exact
    return result
