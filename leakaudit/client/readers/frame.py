"""Named columns of a CSV or Parquet file, as pandas and others write them.

CSV needs nothing beside Python; Parquet needs pyarrow (``pip install leakaudit[tables]``). An index that pandas wrote
in front, a column without a name, is left out. Files are opened in a process of their own, see
`leakaudit.safety.confined`: a few bytes of either can stand for gigabytes of cells.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leakaudit.errors import BatchError, UsageError, first_line
from leakaudit.safety.confined import Limits, confined, grant, refuse_exhaustion
from leakaudit.safety.files import ordinary

SUFFIXES = {".csv", ".tsv", ".parquet", ".pq"}
MAX_BYTES = 2**31
COPIES = 24
"""Bytes of memory that a byte of a CSV file may take while it is read; chosen: in CPython a cell of two letters
and its comma are a text of 51 bytes, a reference of 8 and 8 of the array."""
BYTES_PER_SECOND = 1 << 20
"""Bytes that are read in a second of processor time, at least; chosen, a tenth of what a slow machine does."""
_WORDS = {"true": "1", "false": "0"}
_UNNAMED = ("", "Unnamed: 0", "__index_level_0__")


@dataclass(frozen=True, eq=False)
class Frame:
    """Columns by name, in order, each with a cell (N,) per row.

    Args:
        columns: Cells as text, or as numbers where the file says so.
        where: The file, for messages.
    """

    columns: dict[str, np.ndarray[Any, Any]]
    where: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def numbers(self, name: str) -> np.ndarray[Any, Any] | None:
        """A column as float64, ``True`` as 1; ``None`` where a cell is no number."""
        cells = self.columns[name]
        if cells.dtype.kind in "uifb":
            return cells.astype(np.float64)
        try:
            return np.array([float(_WORDS.get(cell.lower(), cell)) for cell in cells])
        except ValueError:
            return None


def read_frame(path: Path) -> Frame:
    """The columns of a file.

    Raises:
        UsageError: Parquet cannot be read here, or it is a pipe or a device.
        BatchError: It holds no rows, or rows of different lengths.
    """
    try:
        size = ordinary(path).stat().st_size
    except OSError as error:
        raise BatchError(f"{path}: cannot be read ({error.strerror})", "pass a table that can be read") from error
    if size > MAX_BYTES:
        raise BatchError(f"{path}: has {size / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:.0f} GiB")
    limits = Limits(seconds=Limits.seconds + size // BYTES_PER_SECOND)
    columns = confined(lambda: _columns(path, size), str(path), BatchError, limits)
    kept = {name: cells for name, cells in columns.items() if name not in _UNNAMED}
    if not kept or len(next(iter(kept.values()))) == 0:
        raise BatchError(f"{path}: holds no rows", "write a line of names, then a line per row")
    return Frame(kept, str(path))


def _columns(path: Path, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """All columns of a file of so many bytes."""
    grant(COPIES * size)
    return _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)


def _csv(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchError(f"{path}: cannot be read as text ({error})", "write it as UTF-8") from error
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator(text.partition("\n")[0])
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
    except csv.Error as error:
        raise BatchError(f"{path}: not a CSV file ({error})", "write it with pandas.DataFrame.to_csv") from error
    if not rows:
        return {}
    names = [name.strip() for name in rows[0]]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise BatchError(f"{path}: two columns are named {repeated[0]!r}", "give each column a name of its own")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise BatchError(f"{path}: line {number} has {len(row)} cells, its first line has {len(names)}")
    cells = [np.array([row[i].strip() for row in rows[1:]], dtype=str) for i in range(len(names))]
    return dict(zip(names, cells, strict=True))


def _separator(header: str) -> str:
    """The separator that occurs most often in the line of names."""
    return max(",;\t", key=header.count)


def _parquet(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            f"{path} is a Parquet file, which pyarrow reads, and that is not installed",
            "pip install leakaudit[tables], or write the table as .csv",
        ) from error
    try:
        table = parquet.ParquetFile(path).read(use_threads=False)  # threads of Arrow's do not outlive a fork
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refuse_exhaustion(error)
        reason = first_line(error)
        raise BatchError(f"{path}: not a readable Parquet file ({reason})", "write the file again") from error
    return {name: _cells(path, name, table.column(name).to_pylist()) for name in table.column_names}


def _cells(path: Path, name: str, cells: list[Any]) -> np.ndarray[Any, Any]:
    """The cells of a Parquet column: numbers, or else text; a missing one is an empty text."""
    if all(isinstance(cell, bool | int | float) for cell in cells):
        return np.array(cells, dtype=np.float64)
    if any(isinstance(cell, list | dict | bytes) for cell in cells):
        raise BatchError(f"{path}: column {name!r} holds lists or bytes, expected numbers or texts", "leave it out")
    return np.array(["" if cell is None else str(cell) for cell in cells], dtype=str)
