"""What the inputs of a model are that are one sample together: the columns of a row, and a picture in front of them.

An ONNX file, a ``.pt2`` file and a module say their inputs in different ways; here they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from leakaudit.domains.base import Domain
from leakaudit.domains.schema import Column, Part, width
from leakaudit.errors import ModelError
from leakaudit.target import layout as layouts
from leakaudit.target.consumer import consumer
from leakaudit.target.target import Layout

MOST_ENTRIES = 100_000
"""Entries of a row at most; chosen, so that rows to compare take little memory."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Args:
        name: Of the input, or of the argument of a module.
        shape: Of one sample.
        integer: Whether it holds integers that are looked up in embeddings.
        levels: Of each of these, how many values it may have; empty where that is not known yet.
    """

    name: str
    shape: Shape
    integer: bool = False
    levels: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many entries of a row it has."""
        return sum(self.levels) if self.integer else prod(self.shape)

    @property
    def in_row(self) -> bool:
        """Whether it holds numbers of a row."""
        return len(self.shape) < 2


def columns_of(rows: Sequence[Input], label: str) -> tuple[tuple[Column, ...], tuple[Part, ...]]:
    """The columns that inputs of a row hold, and which holds which.

    Args:
        rows: With levels, in the order of the row.
        label: Of the model, for messages.

    Raises:
        ModelError: The row is too wide.
    """
    columns: list[Column] = []
    parts: list[Part] = []
    for one in rows:
        first = len(columns)
        names = [f"{one.name}[{i}]" for i in range(one.shape[0])] if one.shape else [one.name]
        if one.integer:
            levels = [tuple(map(str, range(count))) for count in one.levels]
            columns += [Column(name, "category", levels=own) for name, own in zip(names, levels, strict=True)]
        else:
            columns += [Column(name) for name in names]
        parts.append(Part(one.name, first, len(columns)))
    if (entries := width(columns)) > MOST_ENTRIES:
        raise ModelError(
            f"{label}: its {len(columns)} columns make rows of {entries} entries, more than {MOST_ENTRIES}",
            "export the model with fewer levels",
        )
    return tuple(columns), tuple(parts)


def beside_row(
    module: nn.Module,
    batch: int,
    picture: tuple[Input, Layout],
    given: Shape | None,
    columns: Sequence[Column],
    parts: Sequence[Part],
) -> Domain:
    """What a sample of a picture and the row of a table is.

    Args:
        module: Takes rows whose first entries are the picture's; is run to see what reads those first.
        batch: How many samples it takes.
        picture: The input, and how its shape is to be read by its rank and sizes alone.
        given: Shape of the picture from the user, channels first.
        columns: Of the row behind it.
        parts: Inputs that hold them.

    Raises:
        ModelError: The shape from the user is another.
    """
    own, layout = picture
    native = (own.size + width(columns),)
    layout = layouts.settled(layout, own.shape, consumer(module, native, batch, own.shape), given)
    return layouts.picture_and_row((own.name, layout, own.shape), given, columns, parts)
