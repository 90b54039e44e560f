"""What the templates show: the document regrouped, with every number already formatted: no template computes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from leakaudit.document.schema import AttackEntry, Report, SampleResult, SnapshotEntry, VictimResult
from leakaudit.report.domains import tokens as texts
from leakaudit.report.views import tables
from leakaudit.report.views.annex import Annex, build_annex
from leakaudit.report.views.bounds_chart import bounds_chart
from leakaudit.report.views.comparison import comparison_sentence
from leakaudit.report.views.defence_facts import claim_facts, defence_facts
from leakaudit.report.views.facts import Fact, batch_facts, model_facts, rank_facts, reproduce_facts, tiles
from leakaudit.report.views.figures import Figure, loss_curves, psnr_chart, rank_profiles
from leakaudit.report.views.policy_view import PolicyView, build_policy
from leakaudit.report.views.residual import SENTENCE
from leakaudit.report.views.tables import Table, best_floor, class_name, reidentified
from leakaudit.report.views.trials import trial_chart, trial_table
from leakaudit.report.wording import MISSING, clip, count, fixed, number, pairs, seconds, signed

_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
PIXELATED_BELOW = 100
"""Images with fewer pixels a side are drawn with visible pixels, not smoothed: smoothing would flatter them."""

IMAGES_INTRO = (
    "Left the private original, right what the attack rebuilt. The numbers compare the two; a “best floor” is what an "
    "image made without the update scores."
)
SCORES_INTRO = "PSNR, SSIM: higher is closer. LPIPS, MSE: lower is closer. The margin is PSNR above the best floor."
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
STATUS = {"run": "run", "not_applicable": "not applicable", "not_run": "not run"}


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
    text: texts.TextView | None = None


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
    """One row of the ledger."""

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
    rank: Table
    rank_facts: list[Fact]
    variants: Table
    variant_attacks: Table
    knowledge: Table
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
    findings: list[list[tuple[str, str]]] = field(default_factory=list)


def build_view(report: Report) -> View:
    """Regroup a document for the templates."""
    absent, text = _undefined(report), texts.is_text(report)
    hero, caption = _hero(report, absent)
    return View(
        title=clip(report.target.name, 80),
        privacy=PRIVACY[report.evidence],
        sentence=SENTENCE,
        hero=hero,
        hero_caption=caption,
        tiles=tiles(report),
        galleries=[_gallery(report, attack, absent) for attack in report.attacks if attack.results],
        undefined=[] if text else [f"{name} was not computed: {reason}." for name, reason in absent.items()],
        intro=texts.INTRO if text else IMAGES_INTRO,
        scores_intro=texts.SCORES_INTRO if text else SCORES_INTRO,
        losses=loss_curves(report.attacks),
        chart=psnr_chart(report.attacks),
        bounds=bounds_chart(report),
        ranks=rank_profiles(report),
        scores=(texts if text else tables).score_table(report),
        floors=(texts if text else tables).floor_table(report),
        runs=tables.run_table(report),
        labels=tables.label_table(report),
        rank=tables.rank_table(report),
        rank_facts=rank_facts(report),
        variants=tables.variant_table(report),
        variant_attacks=tables.variant_attack_table(report),
        knowledge=tables.knowledge_table(report),
        ledger=[_ledger(attack) for attack in report.attacks],
        ran=f"{sum(a.status == 'run' for a in report.attacks)} of {count(len(report.attacks), 'attack')} ran",
        model=model_facts(report),
        batch=batch_facts(report),
        reproduce=reproduce_facts(report),
        trials=trial_table(report) if report.trials else None,
        trials_chart=trial_chart(report.trials),
        defences=[*map(defence_facts, report.defences), *map(claim_facts, report.claims)],
        controls=tables.control_table(report),
        annex=build_annex(report),
        policy=build_policy(report),
        findings=[pairs(finding.evidence) for finding in report.findings],
    )


def _results(report: Report) -> Iterator[tuple[AttackEntry, VictimResult]]:
    for attack in report.attacks:
        for result in attack.results:
            yield attack, result


# Pictures


def picture(uri: str | None, alt: str) -> Picture:
    """An image of the document; anything but a PNG data URI is left out, so nothing is ever loaded from elsewhere."""
    if uri is None or not _PNG.fullmatch(uri):
        return Picture(None, alt)
    head = base64.b64decode(uri[22:62])  # 8 bytes signature, 8 chunk header, then width and height
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    return Picture(uri, alt, max(width, height) < PIXELATED_BELOW)


def _hero(report: Report, absent: Mapping[str, str]) -> tuple[SampleView | None, str]:
    """The most telling pair: the leaked sample closest to its original, else the best that the attacks reached."""
    candidates = [
        (sample, attack, result, position)
        for attack, result in _results(report)
        for position, sample in enumerate(result.samples)
        if (sample.original_png and sample.reconstruction_png) or sample.tokens
    ]
    if not candidates:
        return None, ""
    sample, attack, result, position = max(candidates, key=lambda item: (item[0].leaked, _closeness(item[0])))
    which = "The clearest reconstruction" if sample.leaked else "The closest attempt, not counted as a leak"
    return _sample(
        report, attack, result, position, absent
    ), f"{which}: sample {sample.index}, by {clip(attack.title, 80)}."


def _closeness(sample: SampleResult) -> float:
    if sample.tokens is not None:
        return sample.tokens.skill + (sample.tokens.accuracy or 0.0)
    if sample.psnr is None:
        return float("inf") if sample.leaked else float("-inf")
    return sample.psnr if sample.margin is None else sample.margin


def _undefined(report: Report) -> dict[str, str]:
    """Metrics that no sample has, each with its reasons: said once, not on every card."""
    scored = [sample for _, result in _results(report) for sample in result.samples]
    absent = {}
    for key, (name, _, _) in tables.UNITS.items():
        if scored and all(getattr(sample, key) is None for sample in scored):
            reasons = dict.fromkeys(getattr(sample, f"{key}_reason") or "undefined" for sample in scored)
            absent[name] = clip("; ".join(reasons))
    return absent


def _gallery(report: Report, attack: AttackEntry, absent: Mapping[str, str]) -> Gallery:
    samples = [
        _sample(report, attack, result, position, absent)
        for result in attack.results
        for position in range(len(result.samples))
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


def _sample(
    report: Report, attack: AttackEntry, result: VictimResult, position: int, absent: Mapping[str, str]
) -> SampleView:
    sample = result.samples[position]
    of_class = "" if sample.label is None else f", class {class_name(report, sample.label)}"
    psnr = f"{fixed(sample.psnr, 1)} dB" if sample.psnr is not None else sample.psnr_reason or "undefined"
    return SampleView(
        title=f"Sample {sample.index}",
        victim=str(result.victim),
        leaked=sample.leaked,
        result="leaked" if sample.leaked else "not shown",
        original=picture(sample.original_png, f"Original of sample {sample.index}{of_class}"),
        reconstruction=picture(
            sample.reconstruction_png,
            clip(f"Reconstruction of sample {sample.index} by {attack.title}, victim {result.victim}: PSNR {psnr}"),
        ),
        facts=_sample_facts(report, sample, absent),
        text=texts.text_view(sample.tokens) if sample.tokens is not None else None,
        snapshots=[_snapshot(entry, position, sample.index) for entry in result.snapshots]
        if all(position < len(entry.images_png) for entry in result.snapshots)
        else [],
    )


def _snapshot(entry: SnapshotEntry, position: int, index: int) -> tuple[str, Picture]:
    share = f"{entry.fraction:.0%}"
    return share, picture(entry.images_png[position], f"Sample {index} after {share} of the attack")


def _sample_facts(report: Report, sample: SampleResult, absent: Mapping[str, str]) -> list[Fact]:
    if sample.tokens is not None:
        return [*texts.text_facts(sample, sample.tokens), _label_fact(report, sample)]
    facts = []
    for key, (name, unit, digits) in tables.UNITS.items():
        value, floor = getattr(sample, key), best_floor(sample, key)
        text = number(value, 3) if key == "mse" else fixed(value, digits)
        if text == MISSING and name in absent:
            continue
        base = number(floor, 3) if key == "mse" else fixed(floor, digits)
        remark = f"best floor {base}" if floor is not None else ""
        if text == MISSING:
            remark = clip(getattr(sample, f"{key}_reason")) or "undefined"
        facts.append(Fact(name, f"{text} {unit}".strip() if text != MISSING else MISSING, remark))
    margin = signed(sample.margin, 1)
    facts.append(
        Fact("Margin", f"{margin} dB", "above the best floor")
        if margin != MISSING
        else Fact("Margin", MISSING, clip(sample.margin_reason))
    )
    facts.append(_label_fact(report, sample))
    facts.append(Fact("Re-identified", reidentified(sample), clip(sample.reidentified_reason)))
    return facts


def _label_fact(report: Report, sample: SampleResult) -> Fact:
    if sample.label is None:
        return Fact("Label", MISSING, "left out")
    inferred = ""
    if sample.inferred_label is not None:
        right = sample.inferred_label == sample.label
        inferred = "inferred right" if right else f"inferred wrong: {class_name(report, sample.inferred_label)}"
    return Fact("Label", class_name(report, sample.label), inferred)


# Ledger


def _ledger(attack: AttackEntry) -> AttackView:
    return AttackView(
        name=clip(attack.name, 40),
        title=clip(attack.title, 80),
        status=STATUS[attack.status],
        reason=clip(attack.reason),
        threat=f"{clip(attack.threat_model, 20)}: {THREAT_MODELS.get(attack.threat_model, 'see the documentation')}",
        seconds=seconds(attack.seconds) if attack.status == "run" else "",
        reference=clip(attack.reference),
        given=pairs(attack.given),
        hyperparameters=pairs(attack.hyperparameters),
    )
