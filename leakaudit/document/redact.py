"""How private samples appear in a report: as they are, blurred beyond recognition, or not at all.

What blurred means belongs to the domain (`leakaudit.report.domains`): of an image it is a mosaic, which still confirms
a guess to whoever holds candidates, so ``none`` is the choice for what must not be shown; texts have no such middle.
Labels, scores and hashes stay in every case.
"""

from __future__ import annotations

from leakaudit.document.schema import AttackEntry, Report, VictimResult
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card, Level

LEVELS: tuple[Level, ...] = ("full", "blurred", "none")


def redact(report: Report, level: Level) -> Report:
    """The report with its images at this level; a report that holds less already is never given more back."""
    if level == "full" or LEVELS.index(level) <= LEVELS.index(report.evidence):
        return report
    card = card_for(report)
    attacks = [_attack(attack, card, level) for attack in report.attacks]
    return report.model_copy(update={"attacks": attacks, "evidence": level})


def _attack(attack: AttackEntry, card: Card, level: Level) -> AttackEntry:
    return attack.model_copy(update={"results": [_victim(result, card, level) for result in attack.results]})


def _victim(result: VictimResult, card: Card, level: Level) -> VictimResult:
    samples = [card.redacted(sample, level) for sample in result.samples]
    snapshots = [shot for entry in result.snapshots if (shot := card.redacted_snapshot(entry, level)) is not None]
    return result.model_copy(update={"samples": samples, "snapshots": snapshots})
