"""What the ladder of local steps says of attacks that showed nothing: up to how many steps they work.

"Not shown at K = 125; the attacks recovered their controls up to K* = 10" is all that can be said of an attack that
follows ten steps and not 125.
"""

from __future__ import annotations

from leakaudit.document.schema import ControlEntry
from leakaudit.document.status import ControlStatus
from leakaudit.findings.registry import Evidence


def ladders(evidence: Evidence) -> list[ControlEntry]:
    """Those that decided something."""
    return [c for c in evidence.controls if c.kind == "ladder" and any(found is not None for found in c.recovered)]


def told(evidence: Evidence, *, leaked: bool) -> str:
    """The verdict's last sentence, on the number of local steps; "" of a single one, or without a ladder."""
    steps, found = evidence.protocol.steps, ladders(evidence)
    if steps == 1 or not found:
        return ""
    parts = [f"K* = {ladder.reached} ({_where(ladder)})" for ladder in found]
    shown = "Shown" if leaked else "Not shown"
    return f" {shown} at K = {steps} local steps; the attacks recovered their controls up to {' and '.join(parts)}."


def _where(ladder: ControlEntry) -> str:
    reference = ladder.numbers.get("reference")
    where = f"the bundled network {reference!r}" if reference else "generated samples through this model"
    return f"{ladder.title or ladder.attack}, {where}"


def gap(attack: str, evidence: Evidence) -> str:
    """Why the failure of an attack says nothing at so many local steps, or "": it fails on a known leak as well."""
    for ladder in ladders(evidence):
        if ladder.attack == attack and ladder.numbers.get("reference") and ladder.status is ControlStatus.FAILED:
            return f"it recovered a known leak up to K* = {ladder.reached} of {evidence.protocol.steps} local steps"
    return ""
