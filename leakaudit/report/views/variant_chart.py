"""Checkpoints and modes as a line: how near the best reconstruction comes under each, and where samples leak."""

from __future__ import annotations

from leakaudit.document.schema import Report, VariantEntry
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Metric, lowered, with_unit
from leakaudit.report.views.figures import ALERT, INK, MUTED, SERIES, Figure, axis_label, canvas_of, figure_of

FEWEST = 2
"""Audited variants from which a line says more than the table; chosen."""


def variant_chart(report: Report) -> Figure | None:
    """The best result of every audited variant in their order; ``None`` for a single one, or without numbers."""
    card = card_for(report)
    spec = card.strength
    audited = [entry for entry in report.variants if entry.mode]
    if spec is None or len(audited) < FEWEST:
        return None
    reached = [(entry, _best(card, spec, entry)) for entry in audited]
    known = [(place, entry, value) for place, (entry, value) in enumerate(reached) if value is not None]
    return _drawn(spec, [entry for entry, _ in reached], known) if len(known) >= FEWEST else None


def _best(card: Card, spec: Metric, entry: VariantEntry) -> float | None:
    return card.best_of((s for a in entry.attacks if not a.upper_bound for r in a.results for s in r.samples), spec)


def _drawn(spec: Metric, entries: list[VariantEntry], known: list[tuple[int, VariantEntry, float]]) -> Figure:
    with canvas_of(4.7, 2.6) as (canvas, axis):
        axis.plot([p for p, _, _ in known], [v for _, _, v in known], color=MUTED, linewidth=1.2, zorder=2)
        for place, entry, value in known:
            leaks = entry.samples_leaked > 0
            axis.plot(place, value, "o" if leaks else "s", color=ALERT if leaks else SERIES[0], markersize=7, zorder=3)
            told = f"{entry.samples_leaked} of {entry.samples_attacked}"
            axis.annotate(told, (place, value), xytext=(0, 7), textcoords="offset points", ha="center", color=INK)
        axis.set_xticks(range(len(entries)), [axis_label(entry.label, 14) for entry in entries])
        axis.set_ylabel(f"best {lowered(spec)}{', ' + spec.unit if spec.unit else ''}")
        axis.margins(x=0.12, y=0.25)
        axis.grid(axis="y")
        words = "; ".join(
            f"{axis_label(e.label, 60)}: {with_unit(spec, v)}, {e.samples_leaked} of {e.samples_attacked} leaked"
            for _, e, v in known
        )
        caption = "The best reconstruction under each variant; red circles where samples leak, and how many of them."
        return figure_of(canvas, "variants-chart", "The leak over the variants", words, caption)
