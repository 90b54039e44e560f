"""The options that say how a model file is to be read; the same for every command that takes a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    if value is None:
        return None
    parts = value.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r}: expected three positive whole numbers, as 3,224,224")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _dropout(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name or not 0 <= found[name] < 1:
            raise click.BadParameter(f"{value!r}: expected NODE=P with P from 0 to below 1, as /relu/Relu=0.5")
    return found


OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(("eval", "train")),
        default="eval",
        show_default=True,
        help="Mode of the client's model.",
    ),
    click.option("--output", metavar="NAME", help="Graph output to audit, for files with several."),
    click.option("--frozen", multiple=True, metavar="PATTERN", help="Tensors that clients do not train. Repeatable."),
    click.option(
        "--dropout",
        multiple=True,
        callback=_dropout,
        metavar="NODE=P",
        help="Put back dropout that the export has lost, behind this node. Repeatable.",
    ),
    click.option(
        "--input-shape",
        "image_shape",
        callback=_shape,
        metavar="C,H,W",
        help="Shape of one sample, where the model file leaves sizes open.",
    ),
    click.option(
        "--factory", metavar="PACKAGE.MODULE:FUNCTION", help="Your function that builds the module of a weights file."
    ),
    click.option("--trust", is_flag=True, help="Open .pt2 and TorchScript files, whose formats can run code."),
    click.option("--unsafe-pickle", is_flag=True, help="Open pickled modules, which run code."),
)
NAMES = ("mode", "output", "frozen", "dropout", "image_shape", "factory", "trust", "unsafe_pickle")


def model_options(function: Function) -> Function:
    """Add the options to a command, which gets them as one argument `intake` for ``leakaudit.load(model, **intake)``."""

    @wraps(function)
    def packed(*args: Any, **kwargs: Any) -> Any:
        intake = {name: kwargs.pop(name) for name in NAMES}
        return function(*args, intake=intake, **kwargs)

    decorated: Any = packed
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    result: Function = decorated
    return result
