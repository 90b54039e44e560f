"""The ledger's rows: what became of each attack, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import create
from leakaudit.audit import assemble
from leakaudit.audit.request import Request
from leakaudit.audit.results import victim_result
from leakaudit.audit.scene import Run
from leakaudit.audit.turns import Turn
from leakaudit.audit.victim import Victim
from leakaudit.document.schema import AttackEntry, Comparison
from leakaudit.document.status import Cut, RunStatus


@dataclass(frozen=True)
class Reason:
    """What became of an attack, and why, for the ledger."""

    status: RunStatus
    text: str
    beside: Comparison | None = None
    cut: Cut | None = None


def reason_of(turn: Turn, refusals: Sequence[str], beside: Comparison | None) -> Reason:
    """For the ledger's row: what an attack's turn and its rival's lost, and where it does not apply."""
    lost = f"beside it, {beside.title}: {beside.reason}" if beside is not None and beside.reason else ""
    text = "; ".join(filter(None, [turn.why, *refusals, lost]))
    return Reason(RunStatus.RUN if turn.outcomes else RunStatus.NOT_RUN, text, beside, turn.cut)


def entry_of(run: Run, victim: Victim, reasons: Mapping[str, Reason]) -> AttackEntry:
    """The ledger's row of an attack that was asked for, with its results."""
    why = reasons[run.attack.name]
    results = [victim_result(outcome) for outcome in run.outcomes]
    entry = assemble.attack_entry(run.attack, victim, why.status, why.text, results)
    entry.beside, entry.cut = why.beside, why.cut
    return entry


def left_out(name: str, victim: Victim, request: Request) -> AttackEntry:
    """The ledger's row of an attack that was not asked for."""
    attack = create(name, request.preset)
    why = "not among the attacks asked for" if request.attacks else "a baseline that other attacks contain"
    reason = f"{why}: run it with --attack {name}"
    if attack.threat_model > request.threat_model:
        reason = forbidden(attack, request)
    return assemble.attack_entry(attack, victim, RunStatus.NOT_RUN, reason)


def forbidden(attack: Attack, request: Request) -> str:
    """Why an attack is not run that needs a stronger attacker than was asked for."""
    return f"needs threat model {attack.threat_model}, and --threat-model {request.threat_model} does not allow it"
