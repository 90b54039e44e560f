"""Requests from the keywords of the Python interface, and signatures that show them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from leakaudit.audit.parameters import parameters
from leakaudit.audit.request import Request
from leakaudit.errors import UsageError, nearest

Asked = TypeVar("Asked", bound=Request)


def request_of(kind: type[Asked], model: Any, batch: Any, keywords: Mapping[str, Any]) -> Asked:
    """The request of a model, a batch and keywords; or the request that was given in place of them all.

    Args:
        kind: Of the request.
        model: A path, whatever else is a model, or such a request.
        batch: A path, or whatever else holds samples; ``None`` for the batch of a request.
        keywords: Its fields.

    Raises:
        UsageError: A keyword that it does not have, or a value that cannot be.
    """
    if isinstance(model, Request):
        if not isinstance(model, kind) or model.verb != kind.verb:
            raise UsageError(
                f"a {type(model).__name__} was given, expected a {kind.__name__}", f"leakaudit.{model.verb}"
            )
        if keywords or batch is not None:
            given = next(iter(keywords), "batch")
            raise UsageError(f"{given} was given beside a request", "change the request: dataclasses.replace(request)")
        return model
    _refuse_unknown(keywords, list(parameters(kind)))
    paths = {name: value for name, value in (("model", model), ("batch", batch)) if isinstance(value, str | Path)}
    return kind(**{**keywords, **paths})


def _refuse_unknown(keywords: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in keywords:
        if name not in known:
            raise UsageError(f"no keyword named {name!r}", nearest(name, known, f"there are: {', '.join(known)}"))


def whole_signature(function: Any, kind: type[Request]) -> inspect.Signature:
    """The signature of a function that takes the fields of a request as its ``**keywords``."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    there = {p.name for p in own}
    more = [p for p in inspect.signature(kind).parameters.values() if p.name not in there]
    return inspect.signature(function).replace(parameters=[*own, *more])
