"""The report's section on defences: what they are, what they guarantee, what their updates look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import replace

from leakaudit.attacks.base import Attack
from leakaudit.client.examine import DefenceEvidence
from leakaudit.defences.base import Defence
from leakaudit.defences.evidence import Check
from leakaudit.defences.misuse import Practice
from leakaudit.defences.obstacles import Circumstances, obstacle
from leakaudit.document.schema import AccountingEntry, ClaimCheck, ClaimEntry, DefenceEntry, MisuseEntry
from leakaudit.scoring.base import finite

PRIOR = 0.01
"""κ: the attacker could guess the sample among a hundred before seeing any update; chosen, as in `benchmarks/rero.py`.
"""
UNACCOUNTED = "only clipping with Gaussian noise has one"


def defence_entries(
    defences: Sequence[Defence],
    evidence: Sequence[DefenceEvidence],
    ran: Sequence[Attack],
    circumstances: Circumstances,
    practice: Practice | None = None,
) -> list[DefenceEntry]:
    """The defences in the order of their application.

    Args:
        defences: What clients do.
        evidence: Of the same defences.
        ran: Attacks that were run on this model. The defences are evaluated by those that work through all of them; a
            yardstick that is given what no attacker has evaluates nothing.
        circumstances: What holds for a guarantee of any of them.
        practice: What is known of the client that has them, for what deployed code does wrong.
    """
    knowing = [a for a in ran if not a.upper_bound and all(d.known_to(a.adapts) for d in defences)]
    failed = tuple(dict.fromkeys((*circumstances.failed, *failing([found.checks for found in evidence]))))
    entries = []
    for number, (defence, found) in enumerate(zip(defences, evidence, strict=True)):
        again = tuple(str(later) for later in defences[number + 1 :] if not later.post_processing)
        here = replace(circumstances, failed=failed, again=again, unchecked=found.unchecked)
        accounting, reason, withheld = _accounting(defence, found, here)
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
                remains=defence.remains,
                misuses=misuse_entries(defence, practice),
                accounting=accounting,
                accounting_reason=reason,
                withheld=withheld,
                checks=[ClaimCheck(**dataclasses.asdict(check)) for check in found.checks],
            )
        )
    return entries


def failing(checks: Iterable[Iterable[Check]]) -> tuple[str, ...]:
    """What does not hold, by name."""
    return tuple(check.what for found in checks for check in found if not check.holds)


def claim_entry(
    text: str, checks: Sequence[Check], claim: Defence | None = None, practice: Practice | None = None
) -> ClaimEntry:
    """A claim with what the update shows of it; `claim` is ``None`` where no defence is claimed."""
    return ClaimEntry(
        text=text,
        checks=[ClaimCheck(**dataclasses.asdict(check)) for check in checks],
        misuses=[] if claim is None else misuse_entries(claim, practice),
    )


def misuse_entries(defence: Defence, practice: Practice | None) -> list[MisuseEntry]:
    """What deployed code does wrong with a defence; nothing where nothing is known of the client."""
    found = () if practice is None else defence.misuses(practice)
    return [MisuseEntry(kind=one.kind, told=one.told, sure=one.sure, grave=one.grave) for one in found]


def _accounting(
    defence: Defence, evidence: DefenceEvidence, circumstances: Circumstances
) -> tuple[AccountingEntry | None, str, bool]:
    """The guarantee, or why there is none, and whether there would be one in other circumstances."""
    protocol = circumstances.protocol
    if protocol is None:
        found = defence.guarantee(circumstances.batch_size, PRIOR)
    else:
        found = defence.guaranteed(protocol, PRIOR)
    if found is None:
        return None, f"no bound: {defence.unbounded(circumstances.entries) or UNACCOUNTED}", False
    if why := obstacle(circumstances) or defence.obstacle(circumstances):
        return None, f"no bound: {why}", True
    other = found.other
    entry = AccountingEntry(
        epsilon=finite(found.epsilon),
        delta=found.delta,
        noise_multiplier=found.multiplier,
        rate=found.rate,
        steps=found.steps,
        prior=found.prior,
        reconstruction=found.reconstruction,
        reconstruction_one_step=found.one_step,
        epsilon_one_step=_finite(found.epsilon_one_step),
        epsilon_renyi=_finite(found.epsilon_renyi),
        unit=found.unit,
        update_steps=found.update_steps,
        reading=found.reading,
        other_reading=other.reading if other else "",
        other_epsilon=finite(other.epsilon) if other else None,
        other_reconstruction=other.reconstruction if other else None,
        mse=evidence.mse,
        mse_reason=evidence.mse_reason,
    )
    return entry, "", False


def _finite(number: float | None) -> float | None:
    return None if number is None else finite(number)
