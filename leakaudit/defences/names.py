"""The three forms of a defence's text, told apart without importing anything.

``KEY=VALUE,…`` is one of ours or of a plug-in, ``framework:Filter(KEY=VALUE,…)`` a framework's (without a name and
brackets where a framework has only one), and ``module:function`` a function of the user's, which is code. A framework
is what entry points name before a dot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from leakaudit.plugins import names

GROUP = "leakaudit.defences"
_CALL = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Named:
    """A framework's filter as written.

    Args:
        key: The key of its entry point, ``nvflare:PercentilePrivacy``, or the framework alone.
        settings: What stands in the brackets.
    """

    key: str
    settings: str


def framework_of(text: str) -> str:
    """The framework that a text names before its colon; empty where it names none that is known."""
    first, colon, _ = text.partition(":")
    return first.strip() if colon and first.strip() in frameworks() else ""


def frameworks() -> set[str]:
    """Names before a colon that stand for filters, and not for a module."""
    return {name.partition(".")[0] for name in names(GROUP) if "." in name}


def named(text: str) -> Named | None:
    """A framework's filter; ``None`` for every other form, whether it is known or not."""
    framework = framework_of(text)
    if not framework:
        return None
    rest = text.partition(":")[2]
    found = _CALL.fullmatch(rest)
    if found is None:
        return Named(framework, rest)
    return Named(f"{framework}:{found[1]}", found[2] or "")


def runs_code(text: str) -> bool:
    """Whether a text is ``module:function``, whose module is imported."""
    return ":" in settings_of(text)[0].partition("=")[0] and not framework_of(text)


def settings_of(text: str) -> list[str]:
    """The parts between commas, those within brackets kept together."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
