"""The scores of every reconstruction as CSV, one row per attack, victim and sample; no image and no label.

An undefined number is an empty cell. Text that a spreadsheet would take for a formula is quoted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from leakaudit.document.schema import AttackEntry, Metrics, Report, SampleResult, VictimResult
from leakaudit.report.views.tables import FLOORS
from leakaudit.safety.text import shown

METRICS = ("psnr", "ssim", "lpips", "mse")
TOKENS = ("accuracy", "precision", "recall", "skill")
TEXT_METRICS = ("accuracy", "precision", "recall", "skill")
"""Of models over token ids; empty for images."""
COLUMNS = (
    "attack", "threat_model", "upper_bound", "victim", "sample", "leaked", "certified", "residual", *METRICS, "margin",
    "reidentified", "rank_among", "seconds", *(f"token_{name}" for name in TOKENS), *TEXT_METRICS,
    *(f"{floor}_{metric}" for floor in FLOORS for metric in METRICS),
)  # fmt: skip


def render_csv(report: Report) -> str:
    """The table with a header row."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for attack in report.attacks:
        for result in attack.results:
            for sample in result.samples:
                writer.writerow(dict(_row(attack, result, sample)))
    return stream.getvalue()


def _row(attack: AttackEntry, result: VictimResult, sample: SampleResult) -> Iterator[tuple[str, Any]]:
    yield from (("attack", _text(attack.name)), ("threat_model", _text(attack.threat_model)))
    yield from (("upper_bound", attack.upper_bound), ("victim", result.victim), ("sample", sample.index))
    yield from (("leaked", sample.leaked), ("certified", result.certified), ("residual", result.residual))
    yield from ((metric, getattr(sample, metric)) for metric in METRICS)
    yield from (("margin", sample.margin), ("reidentified", sample.reidentified), ("rank_among", sample.rank_among))
    yield "seconds", result.seconds
    yield from ((f"token_{name}", getattr(sample.tokens, name, None)) for name in TOKENS)
    yield from ((metric, getattr(sample.tokens, metric, None)) for metric in TEXT_METRICS)
    for floor in FLOORS:
        values = sample.floors.get(floor, Metrics())
        yield from ((f"{floor}_{metric}", getattr(values, metric)) for metric in METRICS)


def _text(value: str) -> str:
    """Text that no spreadsheet runs."""
    value = shown(value)
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\\t", "\\r")) else value
