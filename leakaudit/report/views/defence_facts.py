"""What the report says about each defence, as term and text."""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.document.schema import AccountingEntry, ClaimCheck, ClaimEntry, DefenceEntry

NOT_EVALUATED = "not evaluated: no attack that ran works through it, so the results show only attackers who ignore it"

VACUOUS = 0.9
"""Probability of reconstruction above which a bound excludes nothing."""


def defence_facts(defence: DefenceEntry) -> list[tuple[str, str]]:
    """Terms and texts of one defence."""
    facts = [("Defence", f"{defence.title}: {defence.text}")]
    facts.append(("Attacker who knows it", defence.adaptive_attack if defence.evaluated else NOT_EVALUATED))
    facts.append(("Bound", at_most(defence.accounting) if defence.accounting else defence.accounting_reason))
    facts += _judged(defence.checks)
    if defence.reference:
        facts.append(("Reference", defence.reference))
    return facts


def claim_facts(claim: ClaimEntry) -> list[tuple[str, str]]:
    """Terms and texts of one claim."""
    return [("Claimed", claim.text), *_judged(claim.checks)]


def _judged(checks: Sequence[ClaimCheck]) -> list[tuple[str, str]]:
    facts = []
    for check in checks:
        judged = "" if check.expected == "-" else f" (claimed {check.expected}): {'holds' if check.holds else 'FAILS'}"
        facts.append((check.what.capitalize(), check.measured + judged))
    return facts


def at_most(accounting: AccountingEntry) -> str:
    """The bound in words; a bound that excludes nothing says so."""
    epsilon = "above what can be accounted" if accounting.epsilon is None else f"{accounting.epsilon:.3g}"
    training = "one update" if accounting.steps == 1 else f"{accounting.steps} updates"
    vacuous = "No useful upper bound: " if accounting.reconstruction > VACUOUS else ""
    text = (
        f"{vacuous}ε = {epsilon} at δ = {accounting.delta:g} for {training} (noise multiplier "
        f"{accounting.noise_multiplier:.3g}, sampling rate {accounting.rate:g}); a sample that could be guessed with "
        f"probability {accounting.prior:g} is reconstructed with probability at most {accounting.reconstruction:.3g}"
    )
    if accounting.mse is not None:
        text += f"; unbiased attackers err by at least {accounting.mse:.2g} per squared pixel value, from one update"
    return text + "."
