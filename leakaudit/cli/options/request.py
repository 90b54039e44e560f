"""The options of a command that takes a request: one for every parameter of the request, and nothing listed twice.

Their help texts are the entries of the request's docstring, their values are checked by the same kinds as keywords. A
command gets them as one argument `asked`, the keywords of its request.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from leakaudit.audit.kinds import File, Files, Flag, NotNegative, OneOf, Positive, Whole
from leakaudit.audit.parameters import Group, Parameter, parameters
from leakaudit.audit.request import Request
from leakaudit.cli.heavy import import_heavy
from leakaudit.cli.options.cache import cache_usable
from leakaudit.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
TRAIN_CONFIG = click.option(
    "--train-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file that says how clients train: mode, frozen, output, loss, batchnorm, share_bn_statistics, "
    "[dropout]. Options given as well win over it.",
)


def request_options(kind: type[Request] = Request, group: Group | None = None) -> Callable[[Function], Function]:
    """A decorator that adds the options of a request to a command, which gets their values as one argument `asked`.

    Args:
        kind: Of the request.
        group: The parameters that the command takes; default all.
    """
    known = [p for p in parameters(kind).values() if p.option and group in (None, p.group)]
    told = described(kind)

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            import_heavy()
            asked = {parameter.name: kwargs.pop(parameter.name) for parameter in known}
            return function(*args, asked=_with_train_config(asked, kwargs.pop("train_config")), **kwargs)

        decorated: Any = TRAIN_CONFIG(call)
        for parameter in reversed(known):
            decorated = _option(parameter, told[parameter.name])(decorated)
        result: Function = decorated
        return result

    return decorate


def described(kind: type[Request]) -> dict[str, str]:
    """What the docstrings of a request and its bases say of each parameter."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = (inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2]).partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE):
            found[name] = " ".join(text.split()).replace("``", "")
    return found


def _option(parameter: Parameter, told: str) -> Callable[[Any], Any]:
    """The option of a parameter."""
    kind, usual = parameter.kind, parameter.usual
    names = [parameter.option, *filter(None, [parameter.short])]
    facts: dict[str, Any] = {"help": told, "callback": _checked(parameter)}
    if isinstance(kind, Flag):
        names = [f"{parameter.option}/{parameter.off}"] if parameter.off else names
        return click.option(*names, parameter.name, is_flag=True, default=usual, show_default=bool(usual), **facts)
    if kind.several:
        facts |= {"multiple": True, "help": told if "..." in kind.metavar else f"{told} Repeatable."}
    elif usual not in (None, (), {}):
        facts |= {"default": usual, "show_default": True}
    return click.option(*names, parameter.name, type=_type(kind), metavar=kind.metavar or None, **facts)


def _type(kind: Any) -> Any:
    """What click converts a word to."""
    if isinstance(kind, OneOf):
        return click.Choice(kind.choices)
    if isinstance(kind, File | Files):
        return click.Path(path_type=Path)
    return int if isinstance(kind, Whole) else float if isinstance(kind, Positive | NotNegative) else str


def _checked(parameter: Parameter) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that reads the value as the request would take it."""

    def check(context: click.Context, option: click.Parameter, value: Any) -> Any:
        if value is None:
            return () if parameter.usual == () else None
        try:
            return parameter.kind.read(value)
        except ValueError as error:
            what = (
                f"{parameter.option} {error}"
                if str(error).startswith("'")
                else f"{parameter.option} is {value!r}, {error}"
            )
            raise UsageError(what, f"leakaudit {context.info_name} --help") from error

    return check


def _with_train_config(asked: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Settings of a train-config file below those of the command line; dropout node by node."""
    if path is None:
        return asked
    from leakaudit.target.train_config import read_train_config

    context = click.get_current_context()
    given = {name for name in asked if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    settings = read_train_config(path)
    dropout = {**settings.pop("dropout", {}), **asked["dropout"]}
    return {**asked, **{key: value for key, value in settings.items() if key not in given}, "dropout": dropout}


def with_cache(asked: dict[str, Any], evidence: str) -> dict[str, Any]:
    """The values with a cache only where one can be written.

    Cached results are reconstructions, so where the report does not show them none are kept unless asked for.
    """
    by_default = click.get_current_context().get_parameter_source("cache") is ParameterSource.DEFAULT
    wanted = asked["cache"] and (not by_default or evidence == "full")
    return {**asked, "cache": wanted and cache_usable()}


def with_told(asked: dict[str, Any]) -> dict[str, Any]:
    """The values with what the document of a recorded round says of the training, where no option says so."""
    if asked["round"] is None:
        return asked
    from leakaudit.audit.round_settings import told_beside

    told, context = told_beside(asked), click.get_current_context()
    for name in ("mode", "batch_size"):
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and told.get(name, asked[name]) != asked[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} is {asked[name]}, the round was recorded with {told[name]}",
                "leave the option out",
            )
    return {**asked, **told}


def refuse_absent(request: Request) -> None:
    """Refuse files that are not there before anything is loaded.

    Raises:
        UsageError: Names the first.
    """
    if not request.files:
        raise UsageError("no MODEL and no --checkpoints", f"leakaudit {request.verb} model.onnx --batch batch.npz")
    for path in request.files:
        if not path.exists():
            raise UsageError(f"no such model file: {path}")
    if request.batch is None:
        if not request.recorded or request.verb != "scan":
            raise UsageError("no samples: --batch is missing", "pass --batch FILE.npz or a folder of images")
        return
    if not Path(request.batch).exists():
        hint = "pass --batch FILE.npz or a folder of images"
        raise UsageError(f"no such batch file or folder: {request.batch}", hint)
