"""The defences that were measured, as a table and as a privacy–utility chart."""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.document.schema import DefenceTrial, Report
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Cell, Table
from leakaudit.report.views.figures import ALERT, INK, MUTED, SERIES, Figure, axis_label, canvas_of, figure_of
from leakaudit.report.wording import MISSING, number

COLUMNS = (
    ("Leaked", True),
    ("95 % interval", True),
    ("Goal", False),
    ("Held-out loss", True),
    ("Accuracy", True),
    ("At most", False),
)
WIDE = 10.0
"""Ratio of the largest to the smallest loss from which the axis is logarithmic."""


def trial_table(report: Report) -> Table:
    """A row per setting, the undefended model first."""
    card = card_for(report)
    columns = (("Setting", False), (card.trial_heading, True), *COLUMNS)
    table = Table("trials", f"Settings measured against {report.goal or 'no goal'}", columns)
    for trial in report.trials:
        name = trial.text or "undefended"
        if trial.status is RunStatus.NOT_RUN:
            blank = [table.value(None, MISSING, f"not measured: {trial.reason}")] * (len(columns) - 1)
            table.add([name, *blank])
            continue
        interval = MISSING
        if trial.leaked_interval is not None:
            low, high = trial.leaked_interval
            interval = f"{low:.0%}–{high:.0%}"
        why = "nothing was attacked"
        bound = _bound(trial)
        table.add(
            [
                Cell(name + (" (recommended)" if trial.recommended else "")),
                table.value(card.trial_level(trial), card.trial(trial), why),
                Cell(f"{trial.leaked} of {trial.attacked}", str(trial.leaked), mark="leak" if trial.leaked else "held"),
                table.value(None, interval, why),
                _judged(table, trial),
                table.value(trial.loss, number(trial.loss), "not trained"),
                table.value(
                    trial.accuracy,
                    MISSING if trial.accuracy is None else f"{trial.accuracy:.0%}",
                    "not trained" if trial.loss is None else "nothing is classified",
                ),
                bound,
            ]
        )
    return table


def _bound(trial: DefenceTrial) -> str:
    """The bound of the training, and whom it protects where that is not a sample."""
    if trial.accounting is None:
        return "no bound"
    whose = "" if trial.accounting.unit == "sample" else " (a client)"
    return f"probability {trial.accounting.reconstruction:.2g}{whose}"


def _judged(table: Table, trial: DefenceTrial) -> Cell:
    if not trial.evaluated:
        return table.value(None, MISSING, "not evaluated: no attack that ran works through this defence")
    if trial.reason:
        return table.value(None, MISSING, f"undecided: {trial.reason}")
    return Cell("met" if trial.meets else "missed", mark="held" if trial.meets else "leak")


def trial_chart(trials: Sequence[DefenceTrial], card: Card) -> Figure | None:
    """Best reconstruction against held-out loss, a point per setting; bottom left is where one wants to be."""
    shown = [t for t in trials if t.status is RunStatus.RUN and t.loss is not None and card.trial_level(t) is not None]
    if len(shown) < 2:
        return None
    from adjustText import adjust_text
    from matplotlib.ticker import LogLocator

    losses = [t.loss for t in shown if t.loss]
    with canvas_of(4.7, 3.8) as (drawing, axis):
        if max(losses, default=1.0) > WIDE * min(losses, default=1.0):  # a setting that diverged
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.xaxis.set_minor_formatter(lambda value, _: "")
        names, places = [], []
        for trial in shown:
            level = card.trial_level(trial) or 0.0
            colour = INK if not trial.text else (SERIES[0] if trial.meets else ALERT)
            marker = "D" if not trial.text else ("o" if trial.meets else "X")
            axis.scatter([trial.loss], [level], s=44, color=colour, marker=marker, zorder=3)
            name = axis_label(trial.text or "undefended", 24)
            names.append(axis.text(trial.loss, level, name, fontsize=7.5, color=MUTED, zorder=4))
            places.append((trial.loss, level))
        axis.set_xlabel("held-out loss after training (lower is better)")
        axis.set_ylabel(card.trial_axis)
        axis.margins(x=0.12, y=0.12)
        axis.grid(True)
        drawing.draw_without_rendering()
        adjust_text(
            names,
            *zip(*places, strict=True),
            ax=axis,
            iter_lim=300,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5},
        )
        text = "; ".join(f"{t.text or 'undefended'}: {card.trial(t)}, loss {number(t.loss)}" for t in shown)
        caption = (
            "Privacy against utility. Circles meet the goal, crosses miss it, the diamond is the undefended model."
        )
        return figure_of(drawing, "trials-chart", "Privacy against utility", text, caption)
