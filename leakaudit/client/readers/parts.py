"""Rows for a model whose file has several inputs: integers and numbers, put into one row in the order of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from leakaudit.client.readers.guess import number_column
from leakaudit.domains.schema import Column, Part
from leakaudit.domains.table import Table
from leakaudit.errors import BatchError

Array = np.ndarray[Any, Any]


def rows_of_parts(inputs: Mapping[str, Array], table: Table, where: str) -> Array:
    """Rows (N, D) as the rewritten model takes them.

    Args:
        inputs: An array (N, columns) or (N,) for each input of the file, by its name.
        table: Of the model.
        where: The file, for messages.

    Raises:
        BatchError: An array has another shape, or an integer is no row of its table.
    """
    parts = [_cells(inputs[part.name], part, where) for part in table.parts]
    counts = {part.name: len(cells) for part, cells in zip(table.parts, parts, strict=True)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise BatchError(f"{where}: the inputs hold different numbers of rows: {told}", "give one row of each a sample")
    columns = [(table.columns[part.first + i], cells[:, i]) for part, cells in zip(table.parts, parts, strict=True)
               for i in range(cells.shape[1])]  # fmt: skip
    return np.concatenate([_entries(column, values, where) for column, values in columns], 1)


def known_columns(rows: Array, table: Table) -> tuple[Column, ...]:
    """The columns of a model with integer inputs: its categories, and numbers as rows (N, D) hold them."""
    return tuple(
        column if column.kind == "category" else number_column(column.name, rows[:, at])
        for column, (at, _) in zip(table.columns, table.places, strict=True)
    )


def _cells(array: Array, part: Part, where: str) -> Array:
    """The array of an input as (N, columns)."""
    count = part.stop - part.first
    if array.dtype.kind not in "uifb":
        raise BatchError(f"{where}: {part.name!r} has dtype {array.dtype}, expected numbers", "encode texts")
    if array.ndim == 1 and count == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape[1] != count or not len(array):
        raise BatchError(
            f"{where}: {part.name!r} has shape {array.shape}, the model takes (N, {count})",
            "store each input as the model takes it",
        )
    return array


def _entries(column: Column, values: Array, where: str) -> Array:
    """The entries (N, width) of a column."""
    if column.kind == "number":
        return values.astype(np.float64)[:, None]
    wrong = np.flatnonzero((values != np.floor(values)) | (values < 0) | (values >= column.width))
    if len(wrong):
        row = int(wrong[0])
        raise BatchError(
            f"{where}: {column.name} of row {row} is {values[row]:g}, expected an integer from 0 to {column.width - 1}",
            "the model has no row for it: correct the file",
        )
    entries: Array = np.eye(column.width)[values.astype(np.int64)]
    return entries
