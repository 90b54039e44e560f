"""Text for people: numbers with sensible digits and units, and names that cannot break a page or a terminal.

Names come from model files, folders and class lists, so they are untrusted. Escaping markup is Jinja2's work;
:func:`leakaudit.safety.text.clean` shows as escapes what that leaves, and this module shortens what is too long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from leakaudit.document.counting import grouped
from leakaudit.safety.text import clean

MISSING = "–"
SAYING = len(" …  (100 of 300 characters left out)")
"""Characters that it takes to say how much was left out."""
_EXPONENT = re.compile(r"(?<![\w.])\d(?:\.\d+)?e[-+]\d+(?!\w)")
"""A number as programs write it."""
LONGEST = 240
"""Characters of a name shown in running text."""


def clip(text: str, longest: int = LONGEST) -> str:
    """Shorten from the middle, between words where there are any, and say how much was left out.

    What would get hardly shorter by that stays whole.
    """
    text = clean(text)
    if len(text) <= longest + SAYING:
        return text
    cut = longest * 2 // 3
    head, tail = _whole_words(text[:cut], text[len(text) - (longest - cut) :])
    return f"{head} … {tail} ({len(text) - len(head) - len(tail):,} of {len(text):,} characters left out)"


def _whole_words(head: str, tail: str) -> tuple[str, str]:
    """Without the parts of words at the cut; names without spaces stay as they are."""
    before, space, part = head.rpartition(" ")
    head = before if space and len(part) < len(before) else head
    part, space, after = tail.partition(" ")
    return head, after if space and len(part) < len(after) else tail


def short(title: str) -> str:
    """A title without what explains it, for columns and axes: ``GI-PIP`` of ``GI-PIP (prior from public samples)``."""
    return clip(title.split(" (")[0], 60)


def number(value: float | int | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits; a dash when undefined."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, int):
        return grouped(value)
    text = f"{value:.{digits}g}"
    return _scientific(text) if "e" in text else text


def _scientific(text: str) -> str:
    """``3.2e-04`` as ``3.2×10⁻⁴``."""
    mantissa, exponent = text.split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10{power}"


def scientific(text: str) -> str:
    """A sentence whose numbers in the notation of programs, ``2e-08``, are written as on paper."""
    return _EXPONENT.sub(lambda found: _scientific(found[0]), text)


def fixed(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """Like :func:`fixed`, with the sign always written."""
    text = fixed(value, digits)
    return text if text == MISSING or text.startswith("−") else f"+{text}"


def seconds(value: float) -> str:
    """A duration: ``0.42 s``, ``12.3 s``, ``3 min 05 s``."""
    if not math.isfinite(value):
        return MISSING
    if value < 1:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def words(key: str) -> str:
    """A document key as words: ``batch_size`` becomes ``batch size``."""
    return clip(key.replace("_", " "), 60)


def plain(value: Any) -> str:
    """Any value of the document's free-form mappings (settings, evidence) as one line of text."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, Mapping):
        return "; ".join(f"{words(str(key))}: {plain(item)}" for key, item in value.items()) or MISSING
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or MISSING
    return clip(str(value))


def pairs(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A free-form mapping as (words, text) rows in its own order."""
    return [(words(str(key)), plain(value)) for key, value in mapping.items()]


def shape(sizes: list[int]) -> str:
    """``3 × 32 × 32``."""
    return " × ".join(str(size) for size in sizes)
