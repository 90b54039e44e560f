"""The attacks that an audit runs: those that were asked for, or all that run by default, each with its settings."""

from __future__ import annotations

from dataclasses import replace

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import available, create
from leakaudit.audit.request import Request


def chosen_attacks(request: Request) -> list[Attack]:
    """The attacks that were asked for, or all that run by default, the cheapest first; later ones build on earlier."""
    chosen = request.attacks or tuple(name for name, attack in available().items() if attack.by_default)
    return sorted((_created(name, request) for name in chosen), key=lambda attack: attack.cost)


def _created(name: str, request: Request) -> Attack:
    """An attack with its settings; without a cache, nothing that it makes is kept either.

    One that learns from samples is tried in passing, unless the user asked for it or named samples.
    """
    attack = create(name, request.preset, request.settings.get(name))
    asked = name in request.attacks or name in request.settings or request.auxiliary is not None
    attack = attack.tried_in_passing() if attack.uses_auxiliary and not asked else attack
    if not request.cache and getattr(attack.settings, "cache", False):
        attack.settings = replace(attack.settings, cache=False)
    return attack
