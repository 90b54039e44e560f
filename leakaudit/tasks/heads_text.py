"""A loss over several outputs as text: ``logits + 0.3*aux1 + 0.3*aux2``, a weight of one where none is said.

Imports nothing heavy, as `leakaudit.tasks.loss_text`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leakaudit.errors import UsageError

FORM = "NAME, or a sum as logits+0.3*aux1"
"""What `--output` takes, for messages."""


@dataclass(frozen=True)
class HeadTerm:
    """One term of a loss over several outputs.

    Args:
        name: Of the output.
        weight: Of its loss in the sum, above zero.
    """

    name: str
    weight: float = 1.0

    def describe(self) -> str:
        """As in a formula."""
        called = f"output {self.name}" if self.name.isdecimal() else self.name
        return called if self.weight == 1 else f"{self.weight:g} × {called}"


def parse_heads(text: str, names: Sequence[str], label: str) -> tuple[HeadTerm, ...] | None:
    """The terms of a sum, the main head first; ``None`` where the text is the name of one output.

    Args:
        text: What the user said.
        names: Of the outputs that there are, in their order, which is what a position counts. A text that is one of
            them is never taken for a sum.
        label: The model's name, for messages.

    Raises:
        UsageError: It is no sum of outputs that there are, each once, with weights above zero.
    """
    if text in names or not any(sign in text for sign in "+*"):
        return None
    terms = tuple(_term(part.strip(), names, text, label) for part in text.split("+"))
    for place, term in enumerate(terms):
        if any(other.name == term.name for other in terms[:place]):
            raise UsageError(
                f"--output {text!r} names the output {term.name!r} twice", "say each once, with its weight"
            )
    return terms


def _term(part: str, names: Sequence[str], text: str, label: str) -> HeadTerm:
    """One output and its weight.

    Raises:
        UsageError: It is none.
    """
    if part in names:
        return HeadTerm(part)
    before, times, after = (piece.strip() for piece in part.partition("*"))
    name = after if times else before
    weight = _weight(before, part, text) if times else 1.0
    if name in names:
        return HeadTerm(name, weight)
    if name.isdecimal() and int(name) < len(names):
        return HeadTerm(names[int(name)], weight)
    known = ", ".join(names) or "none"
    raise UsageError(f"--output {text!r}: {label} has no output {name!r}; it has {known}", f"expected {FORM}")


def _weight(number: str, part: str, text: str) -> float:
    """The number before an output.

    Raises:
        UsageError: It is none that a loss can be weighed with.
    """
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(
            f"--output {text!r}: the weight {number!r} in {part!r} is no finite number above 0", f"expected {FORM}"
        )
    return weight
