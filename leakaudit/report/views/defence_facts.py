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
    if defence.remains:
        facts.append(("Stays exact", defence.remains))
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


def weakest(accounting: AccountingEntry) -> float:
    """The larger of the two bounds on reconstruction: of an update that a sample took part in, and of the training."""
    return max(accounting.reconstruction, accounting.reconstruction_one_step)


def at_most(accounting: AccountingEntry) -> str:
    """The bound in words; a bound that excludes nothing says so."""
    vacuous = "No useful upper bound: a" if weakest(accounting) > VACUOUS else "A"
    text = f"{vacuous} {bound_in_short(accounting)}"
    if accounting.mse is not None:
        text += f"; unbiased attackers err by at least {accounting.mse:.2g} per squared pixel value, from one update"
    reading = f": {accounting.reading}" if accounting.reading else ""
    return f"{text}. Noise multiplier {accounting.noise_multiplier:.3g}{reading}.{_other(accounting)}"


def bound_in_short(accounting: AccountingEntry) -> str:
    """The bound of one update, and of the training where that is more than one update with every sample."""
    epsilon, delta, renyi = _epsilon(accounting.epsilon), f"δ = {accounting.delta:g}", ""
    if accounting.epsilon_renyi is not None:
        renyi = f"; by Rényi accounting {accounting.epsilon_renyi:.3g}"
    text = (
        f"sample that could be guessed with probability {accounting.prior:g} is reconstructed with probability at most "
        f"{accounting.reconstruction_one_step:.3g} from one update that it took part in"
    )
    whose = "" if accounting.unit == "sample" else ", for all samples of one client together"
    if accounting.steps == accounting.update_steps and accounting.rate == 1:
        return f"{text} (ε = {epsilon} at {delta}{renyi}{whose})"
    one = "" if accounting.epsilon_one_step is None else f" (ε = {accounting.epsilon_one_step:.3g} at {delta}{whose})"
    return (
        f"{text}{one}, and at most {accounting.reconstruction:.3g} from the training of {_training(accounting)} "
        f"at sampling "
        f"rate {accounting.rate:g} (ε = {epsilon} at {delta}{renyi}{whose})"
    )


def _training(accounting: AccountingEntry) -> str:
    """How many updates, or steps where an update is of several."""
    if accounting.update_steps > 1:
        return f"{accounting.steps} steps, {accounting.update_steps} of them an update,"
    return "1 update" if accounting.steps == 1 else f"{accounting.steps} updates"


def _other(accounting: AccountingEntry) -> str:
    """The bound in the other unit that the noise may have been meant in."""
    if accounting.other_reconstruction is None:
        return ""
    return (
        f" {accounting.other_reading[:1].upper()}{accounting.other_reading[1:]}; then ε = "
        f"{_epsilon(accounting.other_epsilon)} and at most {accounting.other_reconstruction:.3g} for the training."
    )


def _epsilon(value: float | None) -> str:
    return "above what can be accounted" if value is None else f"{value:.3g}"
