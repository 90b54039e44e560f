"""Defences as text: ``clip=1.0,noise=0.01``, ``prune=0.9``, ``sign``, ``module:function``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any

from leakaudit.defences.base import Defence
from leakaudit.defences.custom import load_custom
from leakaudit.defences.registry import available
from leakaudit.errors import UsageError

SWITCHES = {"": True, "true": True, "false": False}
"""Values of a setting that is a switch; named alone, it is on."""


def parse_defences(texts: Iterable[str]) -> tuple[Defence, ...]:
    """One defence per text, applied in that order.

    Raises:
        UsageError: An unknown key, a value that cannot be, a function that cannot be imported.
    """
    return tuple(parse_defence(text) for text in texts)


def parse_defence(text: str) -> Defence:
    """A defence from ``KEY=VALUE,…`` (a key that is a switch needs no value) or ``module:function``.

    Raises:
        UsageError: See :func:`parse_defences`.
    """
    first = text.partition(",")[0].partition("=")[0].strip()
    if ":" in first:
        return load_custom(text)
    known = available()
    if first not in known:
        raise UsageError(
            f"--defence {text!r}: no defence begins with {first!r}",
            f"there are: {', '.join(known)}, or module:function (leakaudit defences)",
        )
    kind = known[first]
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, found, value = (piece.strip() for piece in part.partition("="))
        if key == kind.name and not found:
            continue
        if key not in {f.name for f in dataclasses.fields(kind)}:
            settings = ", ".join(f.name for f in dataclasses.fields(kind)) or "no settings"
            raise UsageError(f"--defence {text!r}: {kind.name} has no setting {key!r}", f"it has: {settings}")
        values[key] = _convert(text, key, value, types[key])
    for setting in dataclasses.fields(kind):
        optional = (setting.default, setting.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if not optional and setting.name not in values:
            raise UsageError(f"--defence {text!r}: {setting.name} needs a value: {setting.name}=…")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--defence {text!r}: {error}") from error


def _convert(text: str, key: str, value: str, kind: Any) -> Any:
    """A setting's value as its type says: a string, a number, or for a switch true or false."""
    try:
        return SWITCHES[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError, TypeError) as error:
        expected = "true or false" if kind is bool else getattr(kind, "__name__", str(kind))
        raise UsageError(f"--defence {text!r}: {key}={value!r}, expected {expected}") from error
