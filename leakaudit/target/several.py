"""Modules that take several inputs: made to take one flat row, and what each input is.

Claim: a module that is called with a picture and numbers computes the same when it is given one row (B, D) whose first
entries are the picture's, in their order, and whose others are the numbers: the row is taken apart in front of its
forward. Its class is exchanged for a subclass that does so, as `leakaudit.target.functional` does; tensors keep their
names.

A ``.pt2`` file says the shapes of its inputs. A module does not: the shape of its picture is the given one or a usual
one, and how many numbers it takes follows from its first linear layer that does not fit: of so many inputs too few or
too many, as many more or fewer are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from leakaudit.domains.base import Domain
from leakaudit.domains.schema import MOST_LEVELS, Column, Part
from leakaudit.errors import ModelError
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target import layout as layouts
from leakaudit.target.codes import Blocks, Codes, Looks, Reading
from leakaudit.target.consumer import consumer
from leakaudit.target.probe import sample
from leakaudit.target.target import Layout

FIRST_WIDTH = 2
"""Numbers beside a picture that are tried first; chosen: a single one would be stretched over whatever it meets."""
MOST_TRIES = 24
"""Numbers of columns that are tried at most; chosen, several times the layers that can refuse one."""
MOST_COLUMNS = 64
"""Integers beside numbers that are tried at most; chosen, several times the categories of census data."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """One argument of a module.

    Args:
        name: Of the argument.
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

    def domain(self, module: nn.Module, batch: int, given: Shape | None) -> Domain:
        """What a sample is, of a module that takes rows.

        Args:
            module: Is run to see what reads the picture first.
            batch: How many samples it takes.
            given: Shape of the picture from the user, channels first.
        """
        rows = [self.arguments[place] for place in self.ordered if self.arguments[place].in_row]
        columns, parts = _columns(rows)
        picture = self.picture
        if picture is None:
            return layouts.domain_of("flat", self.native, None, None, (columns, parts))[0]
        first = consumer(module, self.native, batch, picture.shape)
        layout = layouts.settled(_layout(picture.shape), picture.shape, first, given)
        return layouts.several_of((picture.name, layout, picture.shape), given, columns, parts)


def _columns(rows: Sequence[Input]) -> tuple[list[Column], list[Part]]:
    """The columns of these arguments, and which holds which."""
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
    return columns, parts


def _layout(shape: Shape) -> Layout:
    """How a shape is to be read, as its rank and sizes alone suggest."""
    return layouts.infer(shape, None, "")[0]


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


def probed(module: nn.Module, names: Sequence[str], pictures: Sequence[Shape], label: str) -> Inputs:
    """What a module of two inputs is called with, found by running it.

    Args:
        module: Of two positional arguments.
        names: Of these.
        pictures: Shapes that the picture may have.
        label: For messages.

    Raises:
        ModelError: It takes no picture and no integers beside numbers, or does not say how many numbers.
    """
    others = [Input("", shape) for shape in pictures]
    others += [Input("", shape, integer=True) for shape in [(), *((count,) for count in range(1, MOST_COLUMNS + 1))]]
    for other in others:
        for swapped in (False, True):
            looks = Looks(1)
            width = _width(module, partial(_first, other, looks), swapped)
            if width is None or (other.integer and looks.levels(prod(other.shape)) is None):
                continue
            both = [replace(other, name=names[swapped]), Input(names[not swapped], (width,))]
            return Inputs(tuple(both[::-1] if swapped else both))
    raise ModelError(
        f"{label} takes 2 inputs ({', '.join(names)}), and no picture of {_listed(pictures)}, nor integers that are "
        "looked up in embeddings, beside a row of numbers makes it run",
        "say the shape of the picture with --input-shape, or export the model to ONNX or .pt2, which say the shapes",
    )


def _first(other: Input, looks: Looks) -> Tensor:
    """What is tried beside numbers: a picture or integers."""
    alone = Inputs((other,))
    return alone.codes(1, looks, torch.device("cpu"))[0] if other.integer else sample(1, other.shape)


def _listed(pictures: Sequence[Shape]) -> str:
    shown = ["×".join(map(str, shape)) for shape in pictures[:3]]
    return " or ".join(shown) + (" or other usual sizes" if len(pictures) > 3 else "")


def _width(module: nn.Module, other: Callable[[], Tensor], swapped: bool) -> int | None:
    """How many numbers go with another argument; ``None`` where none do, or any number does."""
    tried: set[int] = set()
    waiting = [FIRST_WIDTH, *_sizes(module)]
    while waiting and len(tried) < MOST_TRIES:
        width = waiting.pop(0)
        if width in tried or width < 1:
            continue
        tried.add(width)
        missing: list[int] = []
        if _runs(module, other(), width, swapped, missing):
            return width if not _runs(module, other(), width + 1, swapped, []) else None
        waiting[:0] = [width + difference for difference in missing[-1:]]
    return None


def _sizes(module: nn.Module) -> list[int]:
    """Numbers that layers of vectors ask for."""
    found: list[int] = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            found.append(layer.in_features)
        elif isinstance(layer, nn.BatchNorm1d):
            found.append(layer.num_features)
        elif isinstance(layer, nn.LayerNorm):
            found.append(int(layer.normalized_shape[-1]))
    return found


def _runs(module: nn.Module, other: Tensor, width: int, swapped: bool, missing: list[int]) -> bool:
    """Whether a module runs, and by how many inputs the linear layer is off that did not fit."""
    arguments = [other, sample(1, (width,), 1)]
    try:
        with torch.no_grad(), _mismatches(missing.append):
            module(*(arguments[::-1] if swapped else arguments))
    except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
        refuse_exhaustion(error)
        return False
    return True


@contextmanager
def _mismatches(told: Callable[[int], object]) -> Iterator[None]:
    """Inside, linear layers that are given too few or too many inputs tell how many are missing."""

    def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
        fits = not isinstance(layer, nn.Linear) or not given or not isinstance(given[0], Tensor) or not given[0].dim()
        if not fits and (off := layer.in_features - given[0].shape[-1]):
            told(off)

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
