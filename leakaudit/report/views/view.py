"""What the templates show: the document regrouped, with every number already formatted: no template computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, FindingEntry, Report
from leakaudit.document.status import RunStatus
from leakaudit.document.threat_models import ADDITIONS, held
from leakaudit.report.domains import card_for
from leakaudit.report.views import tables
from leakaudit.report.views.annex import Annex, build_annex
from leakaudit.report.views.bounds_chart import accounted, bounds_chart
from leakaudit.report.views.cells import Fact, Table, with_unit
from leakaudit.report.views.comparison import gain_in_short
from leakaudit.report.views.defence_facts import claim_facts, defence_facts
from leakaudit.report.views.facts import batch_facts, layers_named, model_facts, rank_facts, reproduce_facts, tiles
from leakaudit.report.views.figures import Figure, loss_curves, rank_profiles
from leakaudit.report.views.policy_view import PolicyView, build_policy
from leakaudit.report.views.residual import SENTENCE
from leakaudit.report.views.samples import Gallery, SampleView, gallery, notes_of, under_variants
from leakaudit.report.views.summary import Summary, build_summary
from leakaudit.report.views.trials import trial_chart, trial_table
from leakaudit.report.views.variant_chart import variant_chart
from leakaudit.report.wording import MISSING, clip, pairs, seconds

OF_ATTACKS = ("attack", "attacks", "attacks_that_used_them")
"""Evidence that names attacks."""
PRIVACY = {
    "full": "contains private samples",
    "blurred": "private images are blurred or left out, texts and labels left out",
    "none": "private samples are left out",
}


@dataclass(frozen=True)
class AttackView:
    """One attack that ran, with what it was given."""

    name: str
    title: str
    threat: str
    seconds: str
    reference: str
    given: list[tuple[str, str]]
    notes: list[str]
    hyperparameters: list[tuple[str, str]]

    @property
    def switched_on(self) -> list[tuple[str, str]]:
        """The settings that do something."""
        return [(name, text) for name, text in self.hyperparameters if text not in ("0", "no", MISSING)]


@dataclass(frozen=True)
class View:
    """Everything that the templates need beside the document itself."""

    title: str
    privacy: str
    sentence: str
    summary: Summary
    contents: list[tuple[str, str]]
    tiles: list[Fact]
    galleries: list[Gallery]
    undefined: list[str]
    intro: str
    scores_intro: str
    losses: list[Figure]
    chart: Figure | None
    bounds: Figure
    bounded: bool
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
    variant_chart: Figure | None
    under_variants: list[tuple[str, SampleView]]
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
    minor_told: str
    findings: list[tuple[FindingEntry, list[tuple[str, str]]]] = field(default_factory=list)


def build_view(report: Report) -> View:
    """Regroup a document for the templates."""
    card = card_for(report)
    return View(
        title=clip(report.target.name, 80),
        privacy=PRIVACY[report.evidence],
        sentence=SENTENCE,
        summary=build_summary(report, card),
        contents=list(contents(report)),
        tiles=tiles(report),
        galleries=[gallery(card, attack) for attack in report.attacks if attack.results],
        undefined=card.told_once(),
        intro=card.intro,
        scores_intro=card.scores_intro,
        losses=loss_curves(report.attacks),
        chart=card.chart(),
        bounds=bounds_chart(report),
        bounded=accounted(report) is not None,
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
        variant_chart=variant_chart(report),
        under_variants=under_variants(card),
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
        minor_told=_minor_told(report),
        findings=[(found, evidence_rows(report, found)) for found in report.findings if not tables.minor(found)],
    )


def contents(report: Report) -> Iterator[tuple[str, str]]:
    """Anchors and titles of the sections that a report has."""
    yield "verdict", "Summary"
    if report.variants:
        yield "variants", "Variants compared"
    yield "findings", "Findings"
    if report.trials:
        yield "trials", "Defences measured"
    yield from (("reconstructions", "Reconstructions"), ("control-runs", "Controls"), ("rank", "Rank analysis"))
    yield from (("scores", "Scores and floors"), ("labels", "Labels"), ("curves", "Loss curves and runs"))
    yield from (("details", "Details"), ("ledger", "What was run"), ("facts", "Model and batch"))
    if report.policy:
        yield "policy", "Policy"
    yield from (("annex", "Compliance annex"), ("reproduce", "How to reproduce"), ("glossary", "Glossary"))


# Findings


def _minor_told(report: Report) -> str:
    """Minor findings by name, each once; the appendix has a row for each."""
    names = Counter(f"{clip(f.id, 40)} {clip(f.title, 80)}" for f in report.findings if tables.minor(f))
    told = [name if times == 1 else f"{name} ({times} times)" for name, times in names.items()]
    return f"Minor findings and notes, in the appendix: {'; '.join(told)}."


def evidence_rows(report: Report, finding: FindingEntry) -> list[tuple[str, str]]:
    """A finding's evidence in words, metrics and attacks under their titles; what is not known is left out."""
    specs = {spec.name: spec for spec in card_for(report).specs}
    titles = {attack.name: attack.title for attack in report.attacks}
    rows = []
    for key, given in finding.evidence.items():
        if given is None or given == []:
            continue
        value = _entitled(given, titles) if key in OF_ATTACKS else given
        if key == "deficient_layers":
            value = layers_named(list(map(str, given)))
        spec = specs.get(key)
        if spec is not None and isinstance(value, int | float):
            rows.append((spec.title, with_unit(spec, float(value))))
        else:
            rows.extend(pairs({key: value}))
    return rows


def _entitled(given: Any, titles: Mapping[str, str]) -> Any:
    """Names of attacks as titles; anything else as it is."""
    if isinstance(given, list):
        return [_entitled(item, titles) for item in given]
    return titles.get(given, given) if isinstance(given, str) else given


# Ledger


def _ledger(attack: AttackEntry) -> AttackView:
    return AttackView(
        name=clip(attack.name, 40),
        title=clip(attack.title, 80),
        threat=_threat(attack.threat_model),
        seconds=seconds(attack.seconds),
        reference=clip(attack.reference),
        given=[*pairs(attack.given), *([("beside", gain)] if (gain := gain_in_short(attack)) else [])],
        notes=notes_of(attack),
        hyperparameters=pairs(attack.hyperparameters),
    )


def _threat(letter: str) -> str:
    """A letter with all that its attacker has; a report may name one that this version does not know."""
    return f"{clip(letter, 20)}: {held(letter) if letter in ADDITIONS else 'see the documentation'}"
