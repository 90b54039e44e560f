"""What the several inputs of an ONNX file are, that are one sample together: a picture, and the columns of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from onnx import TensorProto, ValueInfoProto

from leakaudit.domains.schema import MOST_LEVELS, Column, Part
from leakaudit.errors import ModelError
from leakaudit.target.layout import infer
from leakaudit.target.onnx.allowance import check_input
from leakaudit.target.onnx.columns import Followed, Integer
from leakaudit.target.onnx.companions import TOKEN_TYPES
from leakaudit.target.rows import Input, columns_of
from leakaudit.target.target import Layout

WIDEST = 10_000
"""Columns of an input at most; chosen, a hundred times as many as census data have."""
CHECKED = 4
"""Random rows that the rewritten file is compared on; chosen."""


@dataclass(frozen=True)
class Picture:
    """An input of more than one axis beside the row of a table.

    Args:
        name: Of the input.
        layout: As its rank alone suggests.
        native: Shape of one sample, as the file has it.
    """

    name: str
    layout: Layout
    native: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many entries it has."""
        return prod(self.native)


@dataclass(frozen=True)
class Joined:
    """What became one input.

    Args:
        columns: Of a row, without what is known of numbers.
        parts: The file's own inputs that hold them, in order.
        picture: What stands in front of the columns.
    """

    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    picture: Picture | None = None

    @property
    def before(self) -> int:
        """Entries in front of the columns."""
        return 0 if self.picture is None else self.picture.size


def picture_of(
    inputs: Sequence[ValueInfoProto], path: str, image_shape: tuple[int, ...] | None, trusted: bool
) -> Picture | None:
    """The one input of real numbers that has several axes, where there are others.

    Raises:
        ModelError: There are several of them, or its size is open or too large.
    """
    found = [
        info
        for info in inputs
        if info.type.tensor_type.elem_type == TensorProto.FLOAT and len(info.type.tensor_type.shape.dim) > 2
    ]
    if not found or len(inputs) < 2:
        return None
    if len(found) > 1:
        names = ", ".join(repr(info.name) for info in inputs)
        raise ModelError(
            f"{path} has {len(inputs)} inputs ({names}), {len(found)} of them pictures or signals, expected one beside "
            "the row of a table",
            "put pictures of one size together as channels of one input",
        )
    dims = [int(dim.dim_value) if dim.dim_value > 0 else None for dim in found[0].type.tensor_type.shape.dim[1:]]
    layout, candidates = infer(tuple(dims), image_shape, f"{path}, input {found[0].name!r}")
    if None in dims and image_shape is None:
        raise ModelError(
            f"{path} leaves the size of its input {found[0].name!r} open", "say it with --input-shape C,H,W"
        )
    check_input(candidates[0], CHECKED, found[0].name, trusted)
    return Picture(found[0].name, layout, candidates[0])


def size_of(info: ValueInfoProto) -> tuple[int, ...] | None:
    """Shape of one sample, () or (C,); ``None`` for any other, and where the file does not say it."""
    dims = info.type.tensor_type.shape.dim[1:]
    if len(dims) > 1 or not info.type.tensor_type.shape.dim or any(not 0 < d.dim_value <= WIDEST for d in dims):
        return None
    return tuple(int(d.dim_value) for d in dims)


def described(
    inputs: Sequence[ValueInfoProto], sizes: dict[str, tuple[int, ...] | None], found: Followed, path: str
) -> Joined:
    """The columns of a row, and which input holds which."""
    rows = []
    for info in inputs:
        shape, whole = sizes[info.name] or (), info.type.tensor_type.elem_type in TOKEN_TYPES
        places = range(prod(shape) if whole else 0)
        rows.append(
            Input(info.name, shape, whole, tuple(_levels(Integer(info.name, i), shape, found, path) for i in places))
        )
    return Joined(*columns_of(rows, path))


def _levels(integer: Integer, shape: Sequence[int], found: Followed, path: str) -> int:
    """How many rows an integer of an input of this shape can look up."""
    rows = {look.table: look.rows for look in found.lookups}
    tables = found.tables_of()
    ends = []
    for table, offset in tables.get(integer, ()):
        later = [other for pairs in tables.values() for t, other in pairs if t == table and other > offset]
        ends.append(min([rows[table], *later]) - offset)
    if not ends or not 0 < min(ends) <= MOST_LEVELS:
        why = "is looked up in no table" if not ends else f"has {min(ends)} levels, expected 1 to {MOST_LEVELS}"
        name = f"{integer.input}[{integer.place}]" if shape else integer.input
        raise ModelError(f"{path}: the integer {name!r} {why}", "export the model without it, or with fewer levels")
    return min(ends)
