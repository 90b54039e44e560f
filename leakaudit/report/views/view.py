"""What the templates show: the document regrouped, with every number already formatted: no template computes."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from leakaudit.document.schema import AttackEntry, FindingEntry, Report, SampleResult, SnapshotEntry, VictimResult
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card
from leakaudit.report.views import tables
from leakaudit.report.views.annex import Annex, build_annex
from leakaudit.report.views.bounds_chart import bounds_chart
from leakaudit.report.views.cells import Fact, Table, class_name, label_row
from leakaudit.report.views.comparison import comparison_sentence
from leakaudit.report.views.defence_facts import claim_facts, defence_facts
from leakaudit.report.views.facts import batch_facts, model_facts, rank_facts, reproduce_facts, tiles
from leakaudit.report.views.figures import Figure, loss_curves, rank_profiles
from leakaudit.report.views.policy_view import PolicyView, build_policy
from leakaudit.report.views.residual import SENTENCE
from leakaudit.report.views.trials import trial_chart, trial_table
from leakaudit.report.wording import MISSING, clip, count, pairs, seconds

_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
PIXELATED_BELOW = 100
"""Images with fewer pixels a side are drawn with visible pixels, not smoothed: smoothing would flatter them."""

THREAT_MODELS = {
    "A": "the update only",
    "B": "the update and the model",
    "C": "the update, the model and training details",
    "D": "as C, and images of a similar distribution",
    "E": "as D, and statistics of the client's data",
}
PRIVACY = {
    "full": "contains private samples",
    "blurred": "private images are blurred or left out, texts and labels left out",
    "none": "private samples are left out",
}
STATUS = {RunStatus.RUN: "run", RunStatus.NOT_APPLICABLE: "not applicable", RunStatus.NOT_RUN: "not run"}


@dataclass(frozen=True)
class Picture:
    """An image with its alternative text; ``src`` is ``None`` when the document holds none."""

    src: str | None
    alt: str
    small: bool = True


@dataclass(frozen=True)
class SampleView:
    """One private sample beside its reconstruction."""

    title: str
    victim: str
    leaked: bool
    result: str
    original: Picture
    reconstruction: Picture
    facts: list[Fact]
    snapshots: list[tuple[str, Picture]]
    text: Any = None
    wide: bool = False
    label: Picture | None = None
    inferred: Picture | None = None


@dataclass(frozen=True)
class Gallery:
    """All reconstructions of one attack."""

    attack: str
    title: str
    summary: str
    samples: list[SampleView]
    notes: list[str]


@dataclass(frozen=True)
class AttackView:
    """One attack that ran, with what it was given."""

    name: str
    title: str
    status: str
    reason: str
    threat: str
    seconds: str
    reference: str
    given: list[tuple[str, str]]
    hyperparameters: list[tuple[str, str]]


@dataclass(frozen=True)
class View:
    """Everything that the templates need beside the document itself."""

    title: str
    privacy: str
    sentence: str
    hero: SampleView | None
    hero_caption: str
    tiles: list[Fact]
    galleries: list[Gallery]
    undefined: list[str]
    intro: str
    scores_intro: str
    losses: list[Figure]
    chart: Figure | None
    bounds: Figure
    ranks: list[Figure]
    scores: Table
    floors: Table
    runs: Table
    labels: Table
    rounds: Table
    rank: Table
    rank_facts: list[Fact]
    variants: Table
    variant_attacks: Table
    knowledge: Table
    left: Table
    ledger: list[AttackView]
    ran: str
    model: list[Fact]
    batch: list[Fact]
    reproduce: list[Fact]
    defences: list[list[tuple[str, str]]]
    trials: Table | None
    trials_chart: Figure | None
    controls: Table
    annex: Annex
    policy: PolicyView
    minor: Table
    findings: list[tuple[FindingEntry, list[tuple[str, str]]]] = field(default_factory=list)


def build_view(report: Report) -> View:
    """Regroup a document for the templates."""
    card = card_for(report)
    hero, caption = _hero(card)
    return View(
        title=clip(report.target.name, 80),
        privacy=PRIVACY[report.evidence],
        sentence=SENTENCE,
        hero=hero,
        hero_caption=caption,
        tiles=tiles(report),
        galleries=[_gallery(card, attack) for attack in report.attacks if attack.results],
        undefined=card.told_once(),
        intro=card.intro,
        scores_intro=card.scores_intro,
        losses=loss_curves(report.attacks),
        chart=card.chart(),
        bounds=bounds_chart(report),
        ranks=rank_profiles(report),
        scores=tables.score_table(report),
        floors=tables.floor_table(report),
        runs=tables.run_table(report),
        labels=tables.label_table(report),
        rounds=tables.round_table(report),
        rank=tables.rank_table(report),
        rank_facts=rank_facts(report),
        variants=tables.variant_table(report),
        variant_attacks=tables.variant_attack_table(report),
        knowledge=tables.knowledge_table(report),
        left=tables.left_table(report),
        ledger=[_ledger(attack) for attack in report.attacks if attack.status is RunStatus.RUN],
        ran=f"{sum(a.status is RunStatus.RUN for a in report.attacks)} of {count(len(report.attacks), 'attack')} ran",
        model=model_facts(report),
        batch=batch_facts(report),
        reproduce=reproduce_facts(report),
        trials=trial_table(report) if report.trials else None,
        trials_chart=trial_chart(report.trials, card),
        defences=[*map(defence_facts, report.defences), *map(claim_facts, report.claims)],
        controls=tables.control_table(report),
        annex=build_annex(report),
        policy=build_policy(report),
        minor=tables.minor_table(report),
        findings=[(found, pairs(found.evidence)) for found in report.findings if not tables.minor(found)],
    )


# Pictures


def picture(uri: str | None, alt: str) -> Picture:
    """An image of the document; anything but a PNG data URI is left out, so nothing is ever loaded from elsewhere."""
    if uri is None or not _PNG.fullmatch(uri):
        return Picture(None, alt)
    head = base64.b64decode(uri[22:62])  # 8 bytes signature, 8 chunk header, then width and height
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    return Picture(uri, alt, max(width, height) < PIXELATED_BELOW)


def _hero(card: Card) -> tuple[SampleView | None, str]:
    """The most telling pair: the leaked sample closest to its original, else the best that the attacks reached."""
    candidates = [
        (sample, attack, result, position)
        for attack, result in card.results()
        for position, sample in enumerate(result.samples)
        if card.showable(sample)
    ]
    if not candidates:
        return None, ""
    sample, attack, result, position = max(candidates, key=lambda item: (item[0].leaked, card.closeness(item[0])))
    which = "The clearest reconstruction" if sample.leaked else "The closest attempt, not counted as a leak"
    return _sample(card, attack, result, position), f"{which}: sample {sample.index}, by {clip(attack.title, 80)}."


def _gallery(card: Card, attack: AttackEntry) -> Gallery:
    samples = [
        _sample(card, attack, result, position) for result in attack.results for position in range(len(result.samples))
    ]
    beside = [comparison_sentence(attack)] if attack.beside else []
    stopped = [f"Victim {r.victim} ended early: {clip(r.stopped, 120)}." for r in attack.results if r.stopped]
    return Gallery(
        attack=attack.name,
        title=clip(attack.title, 80),
        summary=f"{sum(s.leaked for s in samples)} of {count(len(samples), 'sample')} leaked"
        f" · {count(len(attack.results), 'victim')} · {seconds(attack.seconds)}",
        samples=samples,
        notes=beside + stopped + [f"Victim {r.victim}: {clip(note)}" for r in attack.results for note in r.notes],
    )


def _result(sample: SampleResult) -> str:
    """Whether it leaked, or which part of it did."""
    if sample.leaked and sample.part is not None:
        return f"leaked in part, {sample.part.entries} of {sample.part.of} entries"
    return "leaked" if sample.leaked else "not shown"


def _sample(card: Card, attack: AttackEntry, result: VictimResult, position: int) -> SampleView:
    sample = result.samples[position]
    of_class = "" if sample.label is None else f", class {class_name(card.report, sample.label)}"
    near = card.described(sample)
    return SampleView(
        title=f"Sample {sample.index}",
        victim=str(result.victim),
        leaked=sample.leaked,
        result=_result(sample),
        original=picture(sample.original_png, f"Original of sample {sample.index}{of_class}"),
        reconstruction=picture(
            sample.reconstruction_png,
            clip(f"Reconstruction of sample {sample.index} by {attack.title}, victim {result.victim}: {near}"),
        ),
        facts=_facts(card, sample),
        text=card.text(sample),
        wide=card.wide,
        label=_label_map(sample.label_png, f"Label of sample {sample.index}, a colour for each class"),
        inferred=_label_map(sample.inferred_label_png, f"Label that was found for sample {sample.index}"),
        snapshots=[_snapshot(entry, position, sample.index) for entry in result.snapshots]
        if all(position < len(entry.images_png) for entry in result.snapshots)
        else [],
    )


def _label_map(uri: str | None, alt: str) -> Picture | None:
    """The picture of a label; ``None`` where it has none."""
    return None if uri is None else picture(uri, alt)


def _snapshot(entry: SnapshotEntry, position: int, index: int) -> tuple[str, Picture]:
    share = f"{entry.fraction:.0%}"
    return share, picture(entry.images_png[position], f"Sample {index} after {share} of the attack")


def _facts(card: Card, sample: SampleResult) -> list[Fact]:
    """The metrics, the label, and whether the sample was told from others."""
    *metrics, identified = card.facts(sample)
    return [*metrics, _label_fact(card.report, sample), identified]


def _label_fact(report: Report, sample: SampleResult) -> Fact:
    if sample.label is None and sample.label_row is None:
        return Fact("Label", MISSING, "left out")
    inferred = ""
    if sample.label_right is not None:
        inferred = "among those inferred" if sample.label_right else "not among those inferred"
    if sample.label is None:
        read = "" if sample.inferred_row is None else f"inferred {label_row(report, sample.inferred_row)}"
        told = "; ".join(filter(None, [inferred, read]))
        return Fact("Label", label_row(report, sample.label_row or []), clip(told))
    return Fact("Label", class_name(report, sample.label), inferred)


# Ledger


def _ledger(attack: AttackEntry) -> AttackView:
    return AttackView(
        name=clip(attack.name, 40),
        title=clip(attack.title, 80),
        status=STATUS[attack.status],
        reason=clip(attack.reason),
        threat=f"{clip(attack.threat_model, 20)}: {THREAT_MODELS.get(attack.threat_model, 'see the documentation')}",
        seconds=seconds(attack.seconds) if attack.status is RunStatus.RUN else "",
        reference=clip(attack.reference),
        given=pairs(attack.given),
        hyperparameters=pairs(attack.hyperparameters),
    )
