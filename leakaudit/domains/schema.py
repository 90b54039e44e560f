"""The columns of a table, as a schema file says them: names, kinds, ranges and levels; public knowledge.

::

    [[column]]
    name = "age"
    kind = "number"
    low = 17
    high = 90
    mean = 38.6            # with both, the client standardises: (age - mean) / std
    std = 13.6

    [[column]]
    name = "workclass"
    kind = "category"
    levels = ["Private", "State-gov", "?"]      # or their number

A model takes a number as one entry and a category as one entry per level, of which one is 1 and the others are 0, in
the order of the file. Ranges, mean and standard deviation are in the column's own unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leakaudit.errors import UsageError
from leakaudit.safety.toml import read_toml

Kind = Literal["number", "category"]
WIDEST = 10.0
"""Standard deviations to both sides of the mean that a number may reach where no range is given; chosen."""
MOST_LEVELS = 10_000
"""Levels of a category at most; chosen, a hundred times as many as columns of census data have."""
_KEYS = ("name", "kind", "low", "high", "mean", "std", "levels")


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: For people.
        kind: A number or one of several levels.
        low: The smallest number, in the column's unit.
        high: The largest.
        mean: What the client subtracts, in the same unit; ``None`` where it does not standardise.
        std: What it divides by, as well.
        levels: Names of a category's levels, in the order of its entries.
    """

    name: str
    kind: Kind = "number"
    low: float = 0.0
    high: float = 1.0
    mean: float | None = None
    std: float | None = None
    levels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Entries of a model's input."""
        return len(self.levels) if self.kind == "category" else 1

    @property
    def centre(self) -> float:
        """What the client subtracts."""
        return 0.0 if self.mean is None or self.kind == "category" else self.mean

    @property
    def scale(self) -> float:
        """What it divides by."""
        return 1.0 if self.std is None or self.kind == "category" else self.std

    def told(self) -> str:
        """Name and kind, in words."""
        if self.kind == "category":
            return f"{self.name}: one of {len(self.levels)}"
        return f"{self.name}: {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Part:
    """One input of a model's file that holds columns of a row, where a file has several.

    Args:
        name: The input's.
        first: Position of its first column in the row.
        stop: That behind its last.
    """

    name: str
    first: int
    stop: int


def width(columns: Sequence[Column]) -> int:
    """Entries of a row as a model takes it."""
    return sum(column.width for column in columns)


def read_schema(path: str | Path) -> tuple[Column, ...]:
    """The columns that a file describes, in its order.

    Raises:
        UsageError: It is not there or not such a file; names the column, what was found and what was expected.
    """
    file = Path(path)
    listed = _parsed(file).get("column")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise UsageError(f"--schema {file} has no columns", "describe each with a [[column]] of name and kind")
    columns = tuple(_column(file, number, entry) for number, entry in enumerate(listed))
    names = [column.name for column in columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"--schema {file}: two columns are named {repeated[0]!r}", "give each a name of its own")
    return columns


def _parsed(file: Path) -> dict[str, Any]:
    called = f"--schema {file}"
    content = read_toml(file, called, "texts stand in quotes, columns in [[column]]")
    if unknown := sorted(set(content) - {"column"}):
        raise UsageError(f"{called}: unknown key {unknown[0]!r}, expected [[column]]", "correct the file")
    return content


def _column(file: Path, number: int, entry: dict[str, Any]) -> Column:
    name = entry.get("name", f"x{number + 1}")
    where = f"--schema {file}: column {number + 1}"
    if not isinstance(name, str) or not name:
        raise UsageError(f"{where} is named {name!r}, expected a text", "put the name in quotes")
    where = f"{where}, {name!r},"
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}", f"expected {', '.join(_KEYS)}")
    kind = entry.get("kind", "category" if "levels" in entry else "number")
    if kind not in ("number", "category"):
        raise UsageError(f"{where} is of kind {kind!r}, expected number or category", "correct the file")
    return _category(where, name, entry) if kind == "category" else _number(where, name, entry)


def _category(where: str, name: str, entry: dict[str, Any]) -> Column:
    levels = entry.get("levels")
    if isinstance(levels, int) and not isinstance(levels, bool) and 0 < levels <= MOST_LEVELS:
        return Column(name, "category", levels=tuple(map(str, range(levels))))
    plain = isinstance(levels, list) and all(isinstance(level, str | int | float) for level in levels)
    if not isinstance(levels, list) or not plain or not 0 < len(levels) <= MOST_LEVELS:
        raise UsageError(f"{where} is a category without levels", 'list them, as levels = ["a", "b"], or say how many')
    texts = tuple(str(level) for level in levels)
    if len(set(texts)) < len(texts):
        raise UsageError(f"{where} has a level twice", "list each level once, in the order of the model's inputs")
    return Column(name, "category", levels=texts)


def _number(where: str, name: str, entry: dict[str, Any]) -> Column:
    if "levels" in entry:
        raise UsageError(f"{where} is a number with levels", 'say kind = "category"')
    for key in ("low", "high", "mean", "std"):
        value = entry.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise UsageError(f"{where} has {key} = {value!r}, expected a number", "correct the file")
    mean, std = entry.get("mean"), entry.get("std")
    if (mean is None) != (std is None):
        raise UsageError(f"{where} has a mean or a std alone", "give both, or neither where clients do not standardise")
    if std is not None and not std > 0:
        raise UsageError(f"{where} has std = {std}, expected more than 0", "leave out columns that do not vary")
    low, high = entry.get("low"), entry.get("high")
    least, most = (0.0, 1.0) if mean is None or std is None else (mean - WIDEST * std, mean + WIDEST * std)
    low, high = float(least if low is None else low), float(most if high is None else high)
    if not low < high:
        raise UsageError(f"{where} runs from {low:g} to {high:g}", "give a low that is below high")
    if mean is not None and not low <= mean <= high:
        raise UsageError(
            f"{where} has the mean {mean:g}, outside its range {low:g} to {high:g}",
            "give low, high, mean and std in one unit, the column's own",
        )
    return Column(name, "number", low, high, None if mean is None else float(mean), None if std is None else float(std))
