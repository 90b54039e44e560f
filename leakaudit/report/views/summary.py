"""The first page: what leaked, how likely, what to do first, what was not tested, and the hashes of it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from leakaudit.document.counting import count
from leakaudit.document.schema import AccountingEntry, Report, self_hash
from leakaudit.document.status import RunStatus
from leakaudit.document.threat_models import BEYOND, MANIPULATING
from leakaudit.report.domains.base import Card
from leakaudit.report.views.annex import leak_share
from leakaudit.report.views.bounds_chart import accounted
from leakaudit.report.views.cells import Fact
from leakaudit.report.views.figures import Figure
from leakaudit.report.views.samples import SampleView, cover_samples
from leakaudit.report.wording import clip

NO_FILE = "none: not from a file"


@dataclass(frozen=True)
class Advice:
    """What to do first, why, and a command that measures it."""

    title: str
    why: str
    command: str = ""


@dataclass(frozen=True)
class Summary:
    """What the first page shows beside the verdict."""

    date: str
    samples: list[SampleView]
    caption: str
    scale: Figure | None
    likely: list[Fact]
    first: Advice
    untested: list[str]
    identity: list[Fact]


def build_summary(report: Report, card: Card) -> Summary:
    """The summary of a report."""
    samples, caption = cover_samples(card)
    return Summary(
        date=written_date(report.created),
        samples=samples,
        caption=" ".join(filter(None, [caption, card.legend()])),
        scale=card.scale(),
        likely=_likely(report),
        first=_first(report),
        untested=list(_untested(report)),
        identity=_identity(report),
    )


def written_date(created: str) -> str:
    """``28 November 2026``; what is no date stays as it is."""
    try:
        return f"{datetime.fromisoformat(created):%-d %B %Y}"
    except ValueError:
        return clip(created, 40)


# How likely


def _likely(report: Report) -> list[Fact]:
    """The chance of a leak from one update, and over a training."""
    bound = accounted(report)
    return [_per_update(report, bound), _per_training(bound)]


def _per_update(report: Report, bound: AccountingEntry | None) -> Fact:
    leaked, attacked = leak_share(report)
    interval = report.verdict.interval
    if not attacked:
        told, remark = "Not measured", "no sample was attacked"
    elif interval is None:
        told, remark = f"{leaked} of {attacked} samples", clip(report.verdict.interval_reason, 200)
    else:
        low, high = interval
        told = f"{leaked} of {attacked} samples"
        remark = f"of samples like these {low:.0%} to {high:.0%} (95 % interval)"
    if bound is not None:
        remark += f"; at most {bound.reconstruction_one_step:.2g} by the accounted noise"
    return Fact("From one update", told, remark)


def _per_training(bound: AccountingEntry | None) -> Fact:
    """Only an accountant composes rounds; a leak from one update does not get rarer in the next."""
    if bound is None:
        return Fact(
            "From a whole training",
            "Not bounded",
            "every update with the same sample is a further chance; only accounted noise says how rounds add up",
        )
    steps = "1 update" if bound.steps == 1 else f"{bound.steps:,} steps"
    guess = f"for a sample that could be guessed with {bound.prior:g}"
    return Fact("From a whole training", f"At most {bound.reconstruction:.2g}", f"after {steps}, {guess}")


# What to do first


def _first(report: Report) -> Advice:
    """The recommendation of a comparison of defences, else the first one, else the remedy of the worst finding."""
    if report.recommendation:
        chosen = any(trial.recommended for trial in report.trials)
        return Advice(
            "Recommended by measurement" if chosen else "No defence is recommended by measurement",
            clip(report.recommendation, 400),
        )
    if report.recommendations:
        item = report.recommendations[0]
        return Advice(clip(item.title, 200), f"{clip(item.effect, 320)}.", clip(item.try_it, 120))
    if report.findings:
        worst = report.findings[0]
        return Advice(clip(worst.title, 160), clip(worst.remedy, 400))
    return Advice("Keep the audit running", "Repeat it when the model, its training or its data change.")


# What was not tested


def _untested(report: Report) -> Iterator[str]:
    """What stays open, the most important first; the annex lists all of it."""
    if report.partial:
        yield f"What the audit had not reached when it ended early: {clip(report.partial, 120)}."
    waiting = [clip(a.title, 60) for a in report.attacks if a.status is RunStatus.NOT_RUN]
    if waiting:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        yield f"Attacks that apply and did not run: {', '.join(waiting[:3])}{more}."
    yield f"{MANIPULATING.capitalize()} (threat models {BEYOND})."
    attacked = leak_share(report)[1]
    if report.batch.samples > attacked:
        yield f"The other {count(report.batch.samples - attacked, 'sample')} of the file, and any that are not in it."
    yield "Later weights: what leaks changes as the model is trained."


# What it is about


def _identity(report: Report) -> list[Fact]:
    """Files and hashes; that of the report is the one that ``report.json`` holds of itself."""
    path = report.target.path or report.target.name
    return [
        Fact("Model", clip(report.target.sha256 or NO_FILE), clip(path, 80), code=True),
        Fact("Samples", clip(report.batch.sha256 or NO_FILE), clip(report.batch.path or "", 80), code=True),
        Fact("Report", report_hash(report), "leakaudit verify compares all three", code=True),
    ]


def report_hash(report: Report) -> str:
    """SHA-256 of the document, as ``report.json`` states it."""
    return self_hash(json.loads(report.model_dump_json()))
