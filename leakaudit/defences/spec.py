"""Defences as text: ``clip=1.0,noise=0.01``, ``prune=0.9``, ``sign``, ``nvflare:SVTPrivacy(gamma=1e-5)``,
``module:function``.

The settings stand in any order, and a hyphen in a name is an underscore.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable
from typing import Any

from leakaudit.defences.base import Defence
from leakaudit.defences.custom import load_custom
from leakaudit.defences.names import Named, named, runs_code, settings_of
from leakaudit.defences.registry import available
from leakaudit.errors import UsageError

SWITCHES = {"": True, "true": True, "false": False}
"""Values of a setting that is a switch; named alone, it is on."""
EXPECTED: dict[Any, str] = {bool: "true or false", float: "float, a finite number", int: "int, a whole number"}
"""What a value should have been, by its type."""


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
    if runs_code(text):
        return load_custom(text)
    filtered = named(text)
    kind = _kind(text) if filtered is None else _framework_kind(text, filtered)
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for part in settings_of(text if filtered is None else filtered.settings):
        name, found, value = (piece.strip().strip("'\"") for piece in part.partition("="))
        key = name.replace("-", "_")
        if not found and (key == kind.name or (filtered and not key)):
            continue
        if key not in {f.name for f in dataclasses.fields(kind)}:
            settings = ", ".join(f.name.replace("_", "-") for f in dataclasses.fields(kind)) or "no settings"
            raise UsageError(f"--defence {text!r}: {kind.name} has no setting {name!r}", f"it has: {settings}")
        if key in values:
            raise UsageError(f"--defence {text!r} sets {name} twice", "name every setting once")
        values[key] = _convert(text, key, value, types[key])
    for setting in dataclasses.fields(kind):
        optional = (setting.default, setting.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if not optional and setting.name not in values:
            raise UsageError(f"--defence {text!r}: {setting.name} needs a value: {setting.name}=…")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--defence {text!r}: {error}") from error


def _kind(text: str) -> type[Defence]:
    """The kind of defence: the one that a key leads to, or the only one that has the first setting.

    Raises:
        UsageError: There is none.
    """
    known = available()
    keys = [part.partition("=")[0].strip() for part in text.split(",")]
    leading = next((key for key in keys if key in known), "")
    if leading:
        return known[leading]
    first = keys[0].replace("-", "_")
    ours = [kind for key, kind in known.items() if ":" not in key]
    owners = {kind for kind in ours if first in {f.name for f in dataclasses.fields(kind)}}
    if len(owners) == 1:
        return owners.pop()
    raise UsageError(
        f"--defence {text!r}: no defence begins with {keys[0]!r}",
        f"there are: {', '.join(known)}, or module:function (leakaudit defences)",
    )


def _framework_kind(text: str, filtered: Named) -> type[Defence]:
    """The filter of a framework.

    Raises:
        UsageError: There is none of that name.
    """
    known = available()
    if filtered.key in known:
        return known[filtered.key]
    framework = filtered.key.partition(":")[0]
    theirs = [key for key in known if key.partition(":")[0] == framework]
    if filtered.key == framework and len(theirs) == 1:
        return known[theirs[0]]
    raise UsageError(
        f"--defence {text!r}: no filter {filtered.key}", f"there are: {', '.join(theirs)} (leakaudit defences)"
    )


def _convert(text: str, key: str, value: str, kind: Any) -> Any:
    """A setting's value as its type says: a string, a number, or for a switch true or false."""
    try:
        found = SWITCHES[value.lower()] if kind is bool else kind(value)
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError(f"{value} is not finite")
        return found
    except (ValueError, KeyError, TypeError) as error:
        expected = EXPECTED.get(kind, getattr(kind, "__name__", str(kind)))
        raise UsageError(f"--defence {text!r}: {key}={value!r}, expected {expected}") from error
