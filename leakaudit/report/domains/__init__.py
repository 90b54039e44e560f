"""How samples of each domain appear in a report: a card for each, chosen by the document."""

from __future__ import annotations

from pkgutil import resolve_name

from leakaudit.document.schema import Report, TargetSection
from leakaudit.report.domains.base import Card

OWN = {
    "images": "leakaudit.report.domains.images:ImageCard",
    "table": "leakaudit.report.domains.table:TableCard",
    "volumes": "leakaudit.report.domains.volumes:VolumeCard",
    "signals": "leakaudit.report.domains.signals:SignalCard",
    "several": "leakaudit.report.domains.several:SeveralCard",
    "tokens": "leakaudit.report.domains.tokens:TokenCard",
}
"""The cards of this package, by the kind of the domain: without importing it, since a report is rendered alone."""


def card_for(report: Report) -> Card:
    """The card of a document's domain; the plain one where the domain is not installed here."""
    return card_type(report.target)(report)


def card_type(target: TargetSection) -> type[Card]:
    """The kind of card that a model's samples have."""
    kind = target.domain or ("images" if target.vocabulary is None else "tokens")
    found: type[Card] = resolve_name(OWN.get(kind) or _installed(kind))
    return found


def _installed(kind: str) -> str:
    """The card that a plug-in brings for its domain. A document names no code: only what is installed is looked up."""
    from leakaudit.domains.registry import available

    domain = available().get(kind)
    return domain.card if domain is not None else "leakaudit.report.domains.base:Card"
