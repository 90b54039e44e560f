"""The options that say how a model file is to be read; the same for every command that takes a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    if value is None:
        return None
    parts = value.replace("x", ",").split(",")
    parts = ["1", "1", *parts] if len(parts) == 1 else parts
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r}: expected channels, height, width as 3,224,224, or a number of tokens")
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
        type=click.Choice(("eval", "train", "both")),
        default="eval",
        show_default=True,
        help="Mode of the client's model; scan takes both, and compares them.",
    ),
    click.option(
        "--share-bn-statistics",
        type=click.Choice(("none", "batch", "running")),
        default="none",
        show_default=True,
        help="BatchNorm statistics that clients send with an update: mean and variance over the batch, or the running "
        "statistics after the step (as who sends the whole state dict). Needs --mode train.",
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
        help="Shape of one sample, or its number of tokens, where the model file leaves sizes open.",
    ),
    click.option(
        "--factory", metavar="PACKAGE.MODULE:FUNCTION", help="Your function that builds the module of a weights file."
    ),
    click.option(
        "--trust",
        is_flag=True,
        help="Open .pt2 files, of which torch's operators are all that runs, and TorchScript files, whose programs can "
        "read and write files.",
    ),
    click.option("--unsafe-pickle", is_flag=True, help="Open pickled modules, which run code."),
    click.option(
        "--train-config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="TOML file that says how clients train: mode, frozen, output, loss, batchnorm, share_bn_statistics, "
        "[dropout]. "
        "Options given as well win over it.",
    ),
)
NAMES = (
    "mode",
    "share_bn_statistics",
    "output",
    "frozen",
    "dropout",
    "image_shape",
    "factory",
    "trust",
    "unsafe_pickle",
)


def model_options(function: Function) -> Function:
    """Add the options to a command; it gets them as one argument `intake`: ``leakaudit.load(model, **intake)``."""

    @wraps(function)
    def packed(*args: Any, **kwargs: Any) -> Any:
        intake = {name: kwargs.pop(name) for name in NAMES}
        intake = _with_train_config(intake, kwargs.pop("train_config"))
        return function(*args, intake=intake, **kwargs)

    decorated: Any = packed
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    result: Function = decorated
    return result


def _with_train_config(intake: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Settings of a train-config file below those of the command line; dropout node by node."""
    if path is None:
        return intake
    from leakaudit.target.train_config import read_train_config

    context = click.get_current_context()
    given = {n for n in intake if context.get_parameter_source(n) is not click.core.ParameterSource.DEFAULT}
    settings = read_train_config(path)
    dropout = {**settings.pop("dropout", {}), **intake["dropout"]}
    return {**intake, **{key: value for key, value in settings.items() if key not in given}, "dropout": dropout}
