"""Groups of options: the options of a group reach the command as one argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def packed(name: str, parameters: Sequence[str], options: Sequence[Decorator]) -> Callable[[Function], Function]:
    """A decorator that adds options to a command and hands their values over as one dictionary `name`."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            values = {parameter: kwargs.pop(parameter) for parameter in parameters}
            return function(*args, **{name: values}, **kwargs)

        decorated: Any = call
        for option in reversed(options):
            decorated = option(decorated)
        result: Function = decorated
        return result

    return decorate
