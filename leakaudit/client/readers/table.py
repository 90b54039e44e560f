"""Private rows of a table: ``.npz``, CSV or Parquet to a validated :class:`leakaudit.client.batch.Batch`.

=====================  ===========================================================================================
file                   read as
=====================  ===========================================================================================
``.npz``               an array (N, D) as the model takes it, a category as a column per level, and labels
CSV, Parquet           the columns of the schema by their names, categories as texts; or, where all are numbers and
                       as many as the model takes, the same as of an ``.npz``
=====================  ===========================================================================================

Numbers of an ``.npz`` are standardised or in the unit of their column: what fits the schema is told from their ranges
and means, and ``--values`` says it. Without a schema, neighbouring columns of 0 and 1 that sum to 1 in every row are
taken for one category, texts for categories, and everything else for numbers; the audit says so.
Only `leakaudit.client.observe` and `leakaudit.scoring.table` may hold what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Reader, Source, ValueRange
from leakaudit.client.readers.frame import SUFFIXES, Frame, read_frame
from leakaudit.client.readers.guess import guessed_columns, one_hot
from leakaudit.client.readers.labels import label_note, read_labels
from leakaudit.client.readers.memory import gathered
from leakaudit.client.readers.npz import INPUT_KEYS, LABEL_KEYS, Arrays, as_arrays, hash_files, read_named, read_npz
from leakaudit.client.readers.parts import known_columns, rows_of_parts
from leakaudit.domains.base import Domain
from leakaudit.domains.schema import Column, width
from leakaudit.domains.table import Table, as_guess, table_of
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.target import Target

TABLE_KEYS = (*INPUT_KEYS, "rows", "table", "features")
SLACK = 1e-4
"""How far a number may leave its range, relative to it, by rounding; chosen."""
_LABELS = {*LABEL_KEYS, "class", "income", "outcome"} - {"arr_1"}
"""Names by which a column of a CSV or Parquet file is taken for the labels; otherwise it is the one beside the schema,
or the last."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What a file holds.

    Args:
        inputs: (N, D) as the model takes it, or in the unit of the columns.
        labels: As stored.
        names: Of the columns, where the file gives them.
        class_names: Names by class index, where labels are texts.
        columns: The schema, where it was guessed from cells that are texts.
    """

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, eq=False)
class TableReader(Reader):
    """Reads rows for a model over rows of a table."""

    def read(self, source: Source) -> Batch:
        """Rows of the schema."""
        return self.fitted(source)[1]

    def fitted(self, source: Source) -> tuple[Target, Batch]:
        """Rows, and the model with the columns that were guessed where nothing said them."""
        source = gathered(source)
        if isinstance(source, Batch):
            return self.target, source
        table = table_of(self.target.domain)
        path = None if isinstance(source, tuple) else _existing(Path(source))
        where = "batch" if path is None else str(path)
        rows = _rows_of(as_arrays(source)) if isinstance(source, tuple) else read_rows(Path(source), table, where)
        if table.guessed and table.parts and not rows.columns:
            rows = replace(rows, columns=known_columns(_matrix(rows.inputs, table, where), table))
        if table.guessed and width(rows.columns or table.columns) != prod(table.shape):
            raise _misfit(as_guess(table, rows.columns), prod(table.shape), where)
        inputs = _matrix(rows.inputs, table, where)
        if table.guessed:
            table = as_guess(table, rows.columns or guessed_columns(inputs, rows.names))
        values, note = to_values(inputs, table, self.reading.values, where)
        labels = read_labels(self.target.task, rows.labels, len(values), where)
        batch = Batch(
            images=torch.from_numpy(values.astype(np.float32))[:, None, None, :],
            labels=labels,
            indices=tuple(range(len(values))),
            class_names=rows.class_names,
            path=None if path is None else where,
            sha256=None if path is None else hash_files([path]),
            notes=(note, *([table.assumption] if table.assumption else []), *label_note(labels, self.target.task)),
        )
        return replace(self.target, domain=table), batch


def _existing(path: Path) -> Path:
    way = "pass --batch FILE.npz, .csv or .parquet"
    if not path.exists():
        raise UsageError(f"no such batch file: {path}", way)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; the model takes rows of a table, not images", way)
    return path


def read_rows(path: Path, table: Table, where: str) -> Rows:
    """What a file holds, its columns in the order of the schema where it names them.

    Raises:
        UsageError: Parquet cannot be read here.
        BatchError: It is damaged, or a column of the schema is not there.
    """
    if path.suffix.lower() in SUFFIXES:
        frame = read_frame(path)
        return frame_of_parts(frame, table, where) if table.parts and table.guessed else _of_frame(frame, table, where)
    if table.parts:
        named = read_named(path, [part.name for part in table.parts])
        if named.inputs:
            return Rows(rows_of_parts(named.inputs, table, where), named.labels, (), named.class_names)
    return _rows_of(read_npz(path, keys=TABLE_KEYS))


def frame_of_parts(frame: Frame, table: Table, where: str) -> Rows:
    """The rows of a frame that holds the cells as a model with integer inputs takes them, in the order of its inputs.

    Raises:
        BatchError: It has other columns, or texts: nothing says which integer stands for which.
    """
    label = label_column(frame, table)
    names = [name for name in frame.columns if name != label]
    numbers = [frame.numbers(name) for name in names]
    if len(names) != len(table.columns) or any(n is None for n in numbers):
        raise BatchError(
            f"{where}: has {len(names)} columns, texts among them or not as many as the model takes "
            f"({len(table.columns)})",
            "describe the columns and their levels with --schema, in the order of the model's inputs",
        )
    cells = np.stack([n for n in numbers if n is not None], 1)
    inputs = {part.name: cells[:, part.first : part.stop] for part in table.parts}
    labels, class_names = class_labels(frame, label)
    return Rows(rows_of_parts(inputs, table, where), labels, (), class_names)


def _rows_of(found: Arrays) -> Rows:
    return Rows(found.inputs, found.labels, found.columns, found.class_names)


def stored_labels(path: Path, domain: Domain) -> np.ndarray[Any, Any]:
    """The labels of a CSV or Parquet file, as class indices where they are texts.

    Args:
        path: The file.
        domain: Of the model; its schema tells the columns of the samples.
    """
    table = domain if isinstance(domain, Table) else Table.plain(prod(domain.shape))
    frame = read_frame(path)
    return class_labels(frame, label_column(frame, table))[0]


def _of_frame(frame: Frame, table: Table, where: str) -> Rows:
    label = label_column(frame, table)
    labels, class_names = class_labels(frame, label)
    names = tuple(name for name in frame.columns if name != label)
    described = {column.name for column in table.columns} if not table.guessed else set()
    if described & set(names) and described - set(names):
        missing = next(c.name for c in table.columns if c.name not in frame.columns)
        raise BatchError(f"{where}: has no column {missing!r}, which the schema describes", "name the columns alike")
    columns = tuple(table.columns)
    if not described & set(names):
        numbers = [frame.numbers(name) for name in names]
        if len(names) == prod(table.shape) and all(n is not None for n in numbers):
            return Rows(np.stack([n for n in numbers if n is not None], 1), labels, names, class_names)
        if not table.guessed:
            raise BatchError(f"{where}: has no column {columns[0].name!r}, which the schema describes", "name it alike")
        columns = tuple(_column_of(frame, name) for name in names)
        if width(columns) != prod(table.shape):  # before they are encoded: as many levels as rows would fill the memory
            raise _misfit(as_guess(table, columns), prod(table.shape), where)
    parts = [_entries(frame, column) for column in columns]
    known = columns if table.guessed else ()
    return Rows(np.concatenate(parts, 1), labels, names, class_names, known)


def label_column(frame: Frame, table: Table) -> str:
    """The column of labels: by its name, the only one beside the schema, or the last."""
    names = list(frame.columns)
    named = [name for name in names if name in _LABELS or name.lower() in _LABELS]
    described = [] if table.guessed else [column.name for column in table.columns]
    beside = [name for name in names if name not in described]
    if len(named) == 1 and named[0] in beside:
        return named[0]
    if described and set(described) <= set(names) and len(beside) == 1:
        return beside[0]
    if named or not described or not set(described) & set(names):
        return next((name for name in named if name in beside), names[-1])
    raise BatchError(
        f"{frame.where}: {len(beside)} columns are beside the schema, none of them named as the labels",
        "name the column of the labels label",
    )


def class_labels(frame: Frame, name: str) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Class indices, and the names that they stand for where labels are texts."""
    numbers = frame.numbers(name)
    if numbers is not None:
        return numbers, ()
    names, indices = np.unique(frame.columns[name], return_inverse=True)
    return indices.astype(np.int64), tuple(map(str, names))


def _column_of(frame: Frame, name: str) -> Column:
    """A column as its cells look: a number that the client is taken to standardise, or a category."""
    numbers = frame.numbers(name)
    if numbers is None:
        return Column(name, "category", levels=tuple(sorted(map(str, np.unique(frame.columns[name])))))
    low, high, mean, std = (float(f(numbers)) for f in (np.min, np.max, np.mean, np.std))
    if not std > 0:
        return Column(name, "number", low - 1, high + 1)
    return Column(name, "number", low, high, mean, std)


def _entries(frame: Frame, column: Column) -> np.ndarray[Any, Any]:
    """A column's values (N, width)."""
    cells, numbers = frame.columns[column.name], frame.numbers(column.name)
    if column.kind == "number":
        if numbers is None:
            row = next(i for i, cell in enumerate(cells) if not _is_number(cell))
            raise BatchError(
                f"{frame.where}: {column.name} of row {row} is {str(cells[row])!r}, expected a number",
                "fill it in, or describe the column as a category with --schema",
            )
        return numbers[:, None]
    known = {level: place for place, level in enumerate(column.levels)}
    places = np.empty(len(cells), dtype=np.int64)
    for row, cell in enumerate(cells):
        text = f"{cell:g}" if isinstance(cell, np.floating) else str(cell)
        place = known.get(text)
        if place is None:
            raise BatchError(
                f"{frame.where}: {column.name} of row {row} is {text!r}, which is no level of the schema",
                f"its levels begin with {', '.join(column.levels[:5])}",
            )
        places[row] = place
    entries: np.ndarray[Any, Any] = np.zeros((len(cells), len(column.levels)))
    entries[np.arange(len(cells)), places] = 1
    return entries


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except ValueError:
        return str(cell).lower() in ("true", "false")
    return True


def _matrix(inputs: np.ndarray[Any, Any], table: Table, where: str) -> np.ndarray[Any, Any]:
    """Rows (N, D) of finite numbers, float64."""
    size = prod(table.shape)
    if inputs.dtype.kind not in "uifb":
        raise BatchError(f"{where}: inputs have dtype {inputs.dtype}, expected numbers", "encode texts, or pass a .csv")
    if inputs.ndim < 2 or len(inputs) == 0 or prod(inputs.shape[1:]) != size:
        raise BatchError(
            f"{where}: inputs have shape {inputs.shape}, the model takes rows of {size} numbers (N, {size})",
            "store the columns as the model takes them, a category as a column per level; if each row is a picture, "
            "say which with --input-shape C,H,W",
        )
    rows = inputs.reshape(len(inputs), size).astype(np.float64)
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise BatchError(f"{where}: numbers of row {first} are NaN or infinite", "remove or repair those rows")
    return rows


def _misfit(table: Table, size: int, where: str) -> BatchError:
    return BatchError(
        f"{where}: its columns were guessed as {table.counted}, which make {width(table.columns)} numbers; the model "
        f"takes {size}",
        "describe the columns with --schema FILE",
    )


def to_values(
    inputs: np.ndarray[Any, Any], table: Table, values: ValueRange, where: str
) -> tuple[np.ndarray[Any, Any], str]:
    """Values in the unit of the columns (N, D), and how they were read.

    Args:
        inputs: (N, D), standardised or in that unit.
        table: The columns.
        values: ``normalized`` for standardised numbers, ``pixels`` for the unit of the columns, or ``auto``.
        where: The file, for messages.

    Raises:
        BatchError: A number is outside its range, or a category is not one level.
    """
    centre, scale = (
        np.array([getattr(c, n) for c in table.columns for _ in range(c.width)]) for n in ("centre", "scale")
    )
    restored = inputs * scale + centre
    plain, back = _outside(inputs, table), _outside(restored, table)
    if values == "auto" and (plain is None) == (back is None):
        standardised = _unlikely(restored, table) < _unlikely(inputs, table)
    else:
        standardised = values == "normalized" or (values == "auto" and back is None)
    chosen, wrong = (restored, back) if standardised else (inputs, plain)
    if wrong is not None:
        raise BatchError(f"{where}: {wrong}", "correct the file, or the schema")
    chosen = one_hot(chosen, table.blocks, [c.name for c in table.columns if c.kind == "category"], where)
    scaled = any(column.mean is not None for column in table.columns)
    told = "standardised numbers" if standardised else "numbers in the unit of their columns"
    return chosen, f"rows of {table.counted}" + (f", read as {told}" if scaled else "")


def _outside(rows: np.ndarray[Any, Any], table: Table) -> str | None:
    """The first number outside its range, in words."""
    for column, (start, _) in zip(table.columns, table.places, strict=True):
        if column.kind == "category":
            continue
        slack = SLACK * (column.high - column.low)
        beyond = np.flatnonzero((rows[:, start] < column.low - slack) | (rows[:, start] > column.high + slack))
        if len(beyond):
            return (
                f"{column.name} of row {int(beyond[0])} is {rows[beyond[0], start]:g}, expected {column.low:g} to "
                f"{column.high:g}"
            )
    return None


def _unlikely(rows: np.ndarray[Any, Any], table: Table) -> float:
    """How far the columns' means and spreads are from those of the schema, in its standard deviations."""
    total = 0.0
    for column, (start, _) in zip(table.columns, table.places, strict=True):
        if column.kind == "number" and column.mean is not None:
            own = rows[:, start]
            total += abs(float(own.mean()) - column.centre) / column.scale
            total += abs(float(np.log(max(float(own.std()), 1e-9) / column.scale)))
    return total


def looks_like_table(source: Source, values: ValueRange) -> bool:
    """Whether rows for a model over vectors can be no pictures: a CSV or Parquet file, named columns, or other numbers.

    Args:
        source: What was given as the samples.
        values: What the user says that numbers are.
    """
    if isinstance(source, Batch):
        return False
    if not isinstance(source, tuple):
        path = Path(source)
        if path.suffix.lower() in SUFFIXES:
            return True
        if not path.is_file():
            return False
        found = read_npz(path, keys=TABLE_KEYS)
        inputs, named = found.inputs, bool(found.columns)
    else:
        inputs, named = np.asarray(source[0]), False
    return named or (values == "auto" and no_pixels(inputs))


def no_pixels(inputs: np.ndarray[Any, Any]) -> bool:
    """Whether rows (N, D) hold negative numbers, or fractions above 1."""
    if inputs.ndim != 2 or inputs.dtype.kind != "f" or not np.isfinite(inputs).all() or not inputs.size:
        return False
    return bool(inputs.min() < 0 or (inputs.max() > 1 and (inputs != np.round(inputs)).any()))
