"""The attacks that are installed: the entry points of the group ``leakaudit.attacks``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from leakaudit.attacks.base import Attack
from leakaudit.errors import UsageError, nearest
from leakaudit.matching.settings import MatchSettings
from leakaudit.plugins import installed

GROUP = "leakaudit.attacks"
PRESETS = ("quick", "standard", "paper")


def available() -> dict[str, type[Attack]]:
    """Attack classes by name, the cheapest first.

    Raises:
        UsageError: One that a package brings cannot be imported; an audit without it would say less than it seems to.
    """
    found: dict[str, type[Attack]] = installed(GROUP, "attack")
    return dict(sorted(found.items(), key=lambda item: (item[1].cost, item[0])))


def create(name: str, preset: str, overrides: Mapping[str, str] | None = None) -> Attack:
    """An attack with a preset's settings.

    Args:
        name: As in :func:`available`.
        preset: ``quick``, ``standard`` or ``paper``.
        overrides: Settings to change, as text; converted to the type of the preset's value.

    Raises:
        UsageError: Unknown attack, preset or setting, or a value of the wrong type.
    """
    attacks = available()
    if name not in attacks:
        known = f"there are: {', '.join(attacks)} (leakaudit attacks)"
        raise UsageError(f"no attack named {name!r}", nearest(name, attacks, known))
    if preset not in PRESETS:
        raise UsageError(f"no preset named {preset!r}", f"there are: {', '.join(PRESETS)}")
    settings = attacks[name].presets[preset]
    changes = {key: _convert(name, settings, key, text) for key, text in (overrides or {}).items()}
    try:
        if isinstance(settings, MatchSettings):
            return attacks[name](settings.changed(changes))
        return attacks[name](dataclasses.replace(settings, **changes))
    except ValueError as error:
        raise UsageError(f"--set {name}: {error}") from error


def _convert(attack: str, settings: Any, key: str, text: str) -> Any:
    fields = [f.name for f in dataclasses.fields(settings)]
    if key not in fields:
        hint = nearest(key, fields, f"{attack} has: {', '.join(fields)}")
        raise UsageError(f"--set {attack}.{key}: no such setting", hint)
    value = getattr(settings, key)
    try:
        if isinstance(value, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(value)(text)
    except (ValueError, KeyError) as error:
        raise UsageError(f"--set {attack}.{key}={text}: expected a {type(value).__name__} like {value}") from error
