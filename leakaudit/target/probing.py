"""What a module of two inputs is called with, which it does not say: found by running it.

The shape of a picture is the given one or a usual one. How many numbers stand beside it follows from the first linear
layer that does not fit: of so many inputs too few or too many, as many more or fewer are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from leakaudit.errors import ModelError
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.codes import Looks
from leakaudit.target.probe import sample
from leakaudit.target.rows import Input, Shape
from leakaudit.target.several import Inputs

FIRST_WIDTH = 2
"""Numbers beside a picture that are tried first; chosen: a single one would be stretched over whatever it meets."""
MOST_TRIES = 24
"""Numbers of columns that are tried at most; chosen, several times the layers that can refuse one."""
MOST_COLUMNS = 64
"""Integers beside numbers that are tried at most; chosen, several times the categories of census data."""


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
