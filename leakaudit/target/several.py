"""Modules that take several inputs: made to take one flat row, and what each input is.

Claim: a module that is called with a picture and numbers computes the same when it is given one row (B, D) whose first
entries are the picture's, in their order, and whose others are the numbers: the row is taken apart in front of its
forward. Its class is exchanged for a subclass that does so, as `leakaudit.target.functional` does; tensors keep their
names.

A ``.pt2`` file says the shapes of its inputs; those of a module are found by running it
(`leakaudit.target.probing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from leakaudit.domains.base import Domain
from leakaudit.domains.schema import MOST_LEVELS
from leakaudit.errors import ModelError
from leakaudit.target import layout as layouts
from leakaudit.target.codes import Blocks, Codes, Looks, Reading
from leakaudit.target.probe import sample
from leakaudit.target.rows import Input, Shape, beside_row, columns_of


@dataclass(frozen=True)
class Inputs:
    """What a module is called with.

    Args:
        arguments: In the order of the call; at most one of them has several axes.
    """

    arguments: tuple[Input, ...]

    @property
    def ordered(self) -> tuple[int, ...]:
        """Places of the arguments in the order of their entries in a row: the picture in front."""
        return tuple(sorted(range(len(self.arguments)), key=lambda place: self.arguments[place].in_row))

    @property
    def picture(self) -> Input | None:
        """The one with several axes."""
        return next((one for one in self.arguments if not one.in_row), None)

    @property
    def native(self) -> Shape:
        """Shape of the row."""
        return (sum(one.size for one in self.arguments),)

    @property
    def integers(self) -> int:
        """How many integers a sample has."""
        return sum(prod(one.shape) for one in self.arguments if one.integer)

    def split(self, row: Tensor) -> list[Tensor]:
        """The arguments (B, *shape) of rows (B, D)."""
        found, ends, first = dict[int, Tensor](), list[tuple[int, int]](), 0
        for place in self.ordered:
            one = self.arguments[place]
            if not one.integer:
                found[place] = row[:, first : first + one.size].reshape(len(row), *one.shape)
            levels = list(accumulate(one.levels, initial=first))
            ends += pairwise(levels)
            first += one.size
        found |= self.codes(len(row), Blocks(row, ends), row.device)
        return [found[place] for place in range(len(self.arguments))]

    def codes(self, batch: int, reading: Reading, device: torch.device) -> dict[int, Tensor]:
        """What stands for the arguments of integers, by their places."""
        found, column = dict[int, Tensor](), 0
        for place in self.ordered:
            one = self.arguments[place]
            if one.integer:
                numbers = torch.arange(column, column + prod(one.shape), device=device)
                found[place] = Codes.of(numbers.repeat(batch, 1).reshape(batch, *one.shape), reading)
                column += prod(one.shape)
        return found

    def domain(self, module: nn.Module, batch: int, given: Shape | None, label: str) -> Domain:
        """What a sample is, of a module that takes rows.

        Args:
            module: Is run to see what reads the picture first.
            batch: How many samples it takes.
            given: Shape of the picture from the user, channels first.
            label: For messages.

        Raises:
            ModelError: The row is too wide, or the shape from the user is another.
        """
        rows = [self.arguments[place] for place in self.ordered if self.arguments[place].in_row]
        row = columns_of(rows, label)
        if self.picture is None:
            return layouts.domain_of("flat", self.native, None, None, row)[0]
        layout, _ = layouts.infer(self.picture.shape, None, "")
        return beside_row(module, batch, (self.picture, layout), given, *row)


class _Taking:
    """Mixed into the class of a module of several inputs."""

    leakaudit_inputs: Inputs

    def forward(self, row: Tensor) -> Any:
        """The module's own forward of the parts of a row (B, D)."""
        return super().forward(*self.leakaudit_inputs.split(row))  # type: ignore[misc]


def taking_rows(module: nn.Module, inputs: Inputs) -> nn.Module:
    """The module, its class exchanged for one that takes rows."""
    original = type(module)
    module.__class__ = type(original.__name__, (_Taking, original), {"__module__": original.__module__})
    module.leakaudit_inputs = inputs  # type: ignore[assignment]
    return module


def checked(inputs: Inputs, label: str) -> Inputs:
    """The inputs, if they are numbers of a row beside a single picture at most.

    Raises:
        ModelError: Several have axes of their own.
    """
    if sum(not one.in_row for one in inputs.arguments) > 1:
        names = ", ".join(one.name for one in inputs.arguments)
        raise ModelError(
            f"{label} takes {len(inputs.arguments)} inputs ({names}), several of them pictures or signals, expected "
            "one beside the row of a table",
            "put pictures of one size together as channels of one input",
        )
    return inputs


def with_levels(module: nn.Module, inputs: Inputs, batch: int, label: str) -> Inputs:
    """The inputs with how many values each integer may have, by the tables that a run looks them up in.

    Raises:
        ModelError: Integers are used otherwise, never, or have too many levels.
    """
    if not inputs.integers:
        return inputs
    looks = Looks(batch)
    coded = inputs.codes(batch, looks, torch.device("cpu"))
    drawn = [coded[place] if one.integer else sample(batch, one.shape) for place, one in enumerate(inputs.arguments)]
    try:
        with torch.no_grad():
            module(*drawn)
    except ModelError as error:
        raise ModelError(f"{label}: {error.message}", error.hint) from error
    levels = looks.levels(inputs.integers)
    if levels is None or max(levels) > MOST_LEVELS:
        names = ", ".join(one.name for one in inputs.arguments if one.integer)
        raise ModelError(
            f"{label}: the integers of {names} are not each looked up in tables of 1 to {MOST_LEVELS} rows",
            "wrap the module so that it takes what it looks up, each integer in a table or a part of one",
        )
    return _levelled(inputs, levels)


def _levelled(inputs: Inputs, levels: Sequence[int]) -> Inputs:
    """The inputs with these levels of their integers, in the order of the row."""
    own, first = list(inputs.arguments), 0
    for place in inputs.ordered:
        if own[place].integer:
            stop = first + prod(own[place].shape)
            own[place] = replace(own[place], levels=tuple(levels[first:stop]))
            first = stop
    return Inputs(tuple(own))
