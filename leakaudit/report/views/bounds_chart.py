"""The at-least/at-most chart: the share of samples that leaked, and what bounds it from above, if anything does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leakaudit.document.schema import AccountingEntry, Report
from leakaudit.report.views.annex import leak_share
from leakaudit.report.views.defence_facts import weakest
from leakaudit.report.views.figures import ALERT, MUTED, RULE, SERIES, Figure, canvas_of, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST, MOST = 0, 1


def bounds_chart(report: Report) -> Figure:
    """Two rows on one axis from 0 to 1: *at least* with its interval, *at most* with its bound."""
    leaked, attacked = leak_share(report)
    bound = accounted(report)
    with canvas_of(4.7, 1.55) as (canvas, axis):
        words = [_draw_least(axis, leaked, attacked, report.verdict.interval), _draw_most(axis, bound)]
        axis.set_yticks([LEAST, MOST], ["at least", "at most"])
        axis.set_ylim(1.6, -0.6)
        axis.set_xlim(-0.03, 1.03)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axis.grid(axis="x")
        caption = (
            "At least: share of the attacked samples that were reconstructed, with its 95 % interval where there are "
            "enough of them. At most: chance of any attack to reconstruct a sample, known only with an accounted "
            "random defence."
        )
        return figure_of(canvas, "bounds", "At least and at most", "; ".join(words), caption)


def accounted(report: Report) -> AccountingEntry | None:
    """The strongest guarantee among the defences."""
    entries = [defence.accounting for defence in report.defences if defence.accounting is not None]
    return min(entries, key=weakest, default=None)


def _draw_least(axis: Axes, leaked: int, attacked: int, interval: Sequence[float] | None) -> str:
    if not attacked:
        axis.text(0.0, LEAST, "nothing was attacked", color=MUTED, va="center")
        return "At least: nothing was attacked"
    words = f"At least: {leaked} of {attacked} samples leaked"
    if interval is not None:
        low, high = interval
        axis.plot([low, high], [LEAST, LEAST], color=SERIES[0], linewidth=7, alpha=0.3, solid_capstyle="butt")
        words += f", interval {low:.0%} to {high:.0%}"
    axis.plot(leaked / attacked, LEAST, "o", color=ALERT if leaked else SERIES[0], markersize=8)
    return words


def _draw_most(axis: Axes, bound: AccountingEntry | None) -> str:
    if bound is None:
        axis.plot([0, 1], [MOST, MOST], color=RULE, linewidth=12, solid_capstyle="butt")
        axis.text(0.5, MOST, "no upper bound", color=MUTED, va="center", ha="center")
        return "At most: no upper bound"
    share = weakest(bound)
    axis.plot([0, share], [MOST, MOST], color=SERIES[2], linewidth=7, alpha=0.3, solid_capstyle="butt")
    axis.plot(share, MOST, "|", color=SERIES[2], markersize=14, markeredgewidth=2.5)
    return f"At most: {share:.2%} by the accounted defence"
