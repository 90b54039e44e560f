"""What the attacker of each threat model has, in the words of all views of a report and of ``docs/threat-models.md``.

The letters follow the USENIX Security 2025 systematisation of gradient inversion; each adds to the one before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Addition:
    """What a letter adds to the one before.

    Args:
        thing: In a few words.
        details: What belongs to it, or "".
    """

    thing: str
    details: str = ""


ATTACKER = "an honest-but-curious server"
"""It follows the protocol and looks at what it gets."""
ADDITIONS = {
    "A": Addition("the shared update"),
    "B": Addition("the model", "architecture, weights, loss, input normalisation"),
    "C": Addition("details of the training", "learning rate, local steps"),
    "D": Addition("samples of a similar distribution or a generator of such"),
    "E": Addition("statistics of the client's data", "the means and variances of BatchNorm"),
}
"""What the letters of `leakaudit.observation.ThreatModel` add, each to the one before."""
BEYOND = "F to H"
"""The letters of attackers that no attack here stands for."""
MANIPULATING = "servers that manipulate the model or the protocol"
"""Who these are."""


def added(letter: str) -> str:
    """What a letter adds to the one before, with its details: ``the model: architecture, weights, …``."""
    addition = ADDITIONS[letter]
    return f"{addition.thing}: {addition.details}" if addition.details else addition.thing


def held(letter: str, *, detailed: bool = False, similar: str = "") -> str:
    """All that the attacker of a letter has: ``the shared update and the model``.

    Args:
        letter: A to E.
        detailed: Say what belongs to each thing.
        similar: What the attacker of D learns from, where it is known; in place of any such samples.
    """
    things = {known: addition for known, addition in ADDITIONS.items() if known <= letter}
    if similar and "D" in things:
        things["D"] = Addition("samples to learn from", similar)
    told = [f"{a.thing} ({a.details})" if detailed and a.details else a.thing for a in things.values()]
    return " and ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else told[0]


def scope() -> dict[str, str]:
    """A line on the attacker of each letter, those that are out of scope last."""
    first = f"{ATTACKER} that has {added('A')}"
    further = {letter: f"and {added(letter)}" for letter in ADDITIONS if letter != "A"}
    return {"A": first, **further, BEYOND: MANIPULATING}
