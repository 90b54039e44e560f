"""The report's section on defences: what they are, what they guarantee, what their updates look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from leakaudit.attacks.base import Attack
from leakaudit.client.examine import DefenceEvidence
from leakaudit.defences.base import Defence
from leakaudit.defences.evidence import Check
from leakaudit.document.schema import AccountingEntry, ClaimCheck, ClaimEntry, DefenceEntry
from leakaudit.scoring.base import finite

PRIOR = 0.01
"""κ: the attacker could guess the sample among a hundred before seeing any update; chosen, as in `benchmarks/rero.py`.
"""
UNACCOUNTED = "no bound: only clipping with Gaussian noise has one"


def defence_entries(
    defences: Sequence[Defence], batch_size: int, evidence: Sequence[DefenceEvidence], ran: Sequence[Attack]
) -> list[DefenceEntry]:
    """The defences in the order of their application.

    Args:
        defences: What clients do.
        batch_size: Samples behind one update.
        evidence: Of the same defences.
        ran: Attacks that were run on this model. The defences are evaluated by those that work through all of them; a
            yardstick that is given what no attacker has evaluates nothing.
    """
    knowing = [a for a in ran if not a.upper_bound and all(d.known_to(a.adapts) for d in defences)]
    entries = []
    for defence, found in zip(defences, evidence, strict=True):
        accounting = _accounting(defence, batch_size, found)
        entries.append(
            DefenceEntry(
                name=defence.name,
                title=defence.title,
                text=str(defence),
                settings=defence.settings,
                adaptive_attack=defence.adaptive,
                evaluated=bool(knowing),
                evaluated_by=[attack.name for attack in knowing],
                reference=defence.reference,
                accounting=accounting,
                accounting_reason="" if accounting else UNACCOUNTED,
                checks=[ClaimCheck(**dataclasses.asdict(check)) for check in found.checks],
            )
        )
    return entries


def claim_entry(text: str, checks: Sequence[Check]) -> ClaimEntry:
    """A claim with what the update shows of it."""
    return ClaimEntry(text=text, checks=[ClaimCheck(**dataclasses.asdict(check)) for check in checks])


def _accounting(defence: Defence, batch_size: int, evidence: DefenceEvidence) -> AccountingEntry | None:
    found = defence.guarantee(batch_size, PRIOR)
    if found is None:
        return None
    return AccountingEntry(
        epsilon=finite(found.epsilon),
        delta=found.delta,
        noise_multiplier=found.multiplier,
        rate=found.rate,
        steps=found.steps,
        prior=found.prior,
        reconstruction=found.reconstruction,
        reconstruction_one_step=found.one_step,
        mse=evidence.mse,
        mse_reason=evidence.mse_reason,
    )
