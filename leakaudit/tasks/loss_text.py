"""A loss as text: ``bce``, ``cross-entropy:smoothing=0.1,weights=[1,2,5]``, ``module:function``.

Settings stand behind the name in the way of a defence's; several numbers stand in brackets. What begins with no name of
ours is a function of the user's. Imports nothing heavy, so that options can be checked from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from leakaudit.defences.names import settings_of
from leakaudit.tasks.names import LOSSES, SETTINGS, LossName

SEVERAL = ("weights", "pos_weight")
"""Settings of one number for each class."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "smoothing": (0.0, 1.0),
    "gamma": (0.0, math.inf),
    "delta": (0.0, math.inf),
}
"""Between what a setting lies, by definition of the losses; the upper end is excluded."""


@dataclass(frozen=True)
class LossText:
    """A loss that was asked for.

    Args:
        name: Of ours; ``None`` of a function of the user's.
        function: ``module:function``; empty of a loss of ours.
        numbers: Settings of one number.
        lists: Settings of a number for each class.
    """

    name: LossName | None
    function: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    lists: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def loss_runs_code(text: str) -> bool:
    """Whether a text is ``module:function``, whose module is imported."""
    name, colon, _ = text.partition(":")
    return bool(colon) and name.strip() not in LOSSES


def parse_loss(text: str) -> LossText:
    """A loss from its text.

    Raises:
        ValueError: It cannot be; says what was expected.
    """
    head, colon, rest = text.partition(":")
    name = next((known for known in LOSSES if known == head.strip()), None)
    if name is None:
        if not colon or not head.strip() or not rest.strip():
            raise ValueError(f"expected {', '.join(LOSSES)}, or module:function")
        return LossText(None, text)
    numbers: dict[str, float] = {}
    lists: dict[str, tuple[float, ...]] = {}
    for part in settings_of(rest) if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not equals or key not in SETTINGS[name]:
            raise ValueError(f"expected settings of {name} ({_named(name)}), not {part.strip()!r}")
        if key in numbers or key in lists:
            raise ValueError(f"expected {key} once")
        if key in SEVERAL:
            lists[key] = _several(key, value)
        else:
            numbers[key] = _one(key, value)
    return LossText(name, "", numbers, lists)


def _named(name: LossName) -> str:
    return ", ".join(f"{key}=[…]" if key in SEVERAL else f"{key}=…" for key in SETTINGS[name]) or "none"


def _one(key: str, value: str) -> float:
    low, high = LIMITS[key]
    found = _number(key, value)
    if not low <= found < high or (key == "delta" and found == 0):
        raise ValueError(f"expected {key} from {low:g} to below {high:g}, not {value}")
    return found


def _several(key: str, value: str) -> tuple[float, ...]:
    found = tuple(_number(key, part) for part in value.strip("[]()").split(","))
    if any(number <= 0 for number in found):
        raise ValueError(f"expected positive {key}, as {key}=[1,2.5]")
    return found


def _number(key: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        raise ValueError(f"expected a number for {key}, not {value.strip()!r}") from None
    if not math.isfinite(found):
        raise ValueError(f"expected a finite number for {key}, not {value.strip()!r}")
    return found
