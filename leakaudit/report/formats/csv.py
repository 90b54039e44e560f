"""The scores of every reconstruction as CSV, one row per attack, victim and sample; no image and no label.

The report of ``leakaudit defend`` has a row per setting beside them, with columns of its own behind all others.

An undefined number is an empty cell. Text that a spreadsheet would take for a formula is quoted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from leakaudit.document.schema import AttackEntry, DefenceTrial, Report, SampleResult, VictimResult
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card
from leakaudit.report.formats.base import Format, Rendering
from leakaudit.safety.text import shown

COLUMNS = ("attack", "threat_model", "upper_bound", "victim", "sample", "leaked", "certified", "residual")
"""Before the metrics."""
REST = ("reidentified", "rank_among", "seconds")
"""Between the metrics and their floors."""
TRIALS = (
    *("setting", "status", "reason", "evaluated", "samples_attacked", "samples_leaked", "leaked_low", "leaked_high"),
    *(
        "meets_goal",
        "recommended",
        "goal_value",
        "held_out_loss",
        "held_out_accuracy",
        "epsilon",
        "delta",
        "unit",
        "reconstruction",
    ),
)
"""Behind everything else, where settings of defences were measured."""


def columns(card: Card) -> list[str]:
    """The header: what was attacked, the metrics that the document lists, and the same of every floor."""
    floored = [spec.name for spec in card.specs if spec.floored]
    floors = [f"{floor}_{name}" for floor in _floors(card) for name in floored]
    measured = [*COLUMNS, *(spec.name for spec in card.specs), *REST, *floors]
    return [*measured, *(TRIALS if card.report.trials else ())]


def _floors(card: Card) -> list[str]:
    """The floors that this domain has, whether or not a sample has them."""
    return list(dict.fromkeys([*card.floor_titles, *(name for s in card.samples() for name in card.floors(s))]))


def render_csv(report: Report) -> str:
    """The table with a header row."""
    card = card_for(report)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns(card), lineterminator="\n")
    writer.writeheader()
    for attack, result in card.results():
        for sample in result.samples:
            writer.writerow(dict(_row(card, attack, result, sample)))
    for trial in report.trials:
        writer.writerow(dict(zip(TRIALS, _trial(trial), strict=True)))
    return stream.getvalue()


def _row(card: Card, attack: AttackEntry, result: VictimResult, sample: SampleResult) -> Iterator[tuple[str, Any]]:
    yield from (("attack", harmless_cell(attack.name)), ("threat_model", harmless_cell(attack.threat_model)))
    yield from (("upper_bound", attack.upper_bound), ("victim", result.victim), ("sample", sample.index))
    yield from (("leaked", sample.leaked), ("certified", result.certified), ("residual", result.residual))
    yield from ((spec.name, card.value(sample, spec)) for spec in card.specs)
    yield from (("reidentified", sample.reidentified), ("rank_among", sample.rank_among))
    yield "seconds", result.seconds
    for name, floor in card.floors(sample).items():
        yield from ((f"{name}_{spec.name}", floor.get(spec.name)) for spec in card.specs if spec.floored)


def _trial(trial: DefenceTrial) -> Iterator[Any]:
    """The cells of a setting, in the order of :data:`TRIALS`."""
    low, high = trial.leaked_interval or (None, None)
    bound = trial.accounting
    yield from (
        harmless_cell(trial.text or "undefended"),
        str(trial.status),
        harmless_cell(trial.reason),
        trial.evaluated,
    )
    yield from (trial.attacked, trial.leaked, low, high)
    yield from (trial.meets, trial.recommended, trial.value, trial.loss, trial.accuracy)
    if bound is None:
        yield from ("", "", "", "")
    else:
        yield from (bound.epsilon, bound.delta, bound.unit, bound.reconstruction)


def harmless_cell(value: str) -> str:
    """Text that no spreadsheet runs."""
    value = shown(value)
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\\t", "\\r")) else value


def _render(rendering: Rendering) -> str:
    return render_csv(rendering.report)


def _ours(content: bytes) -> bool:
    return content.startswith(b"attack,threat_model,upper_bound,victim,sample,leaked,")


FORMAT = Format(
    name="csv", file="scores.csv", title="a row per reconstruction, for spreadsheets", render=_render, ours=_ours
)
