"""The pipeline: model and samples in, report out.

::

    target ─┬─ rank analysis ───────────────────────────────────────────────────────┐
    batch ──┴─ client.observe ─▶ observation ─▶ labels ─▶ attacks ─▶ score ─▶ controls ─▶ findings ─▶ verdict ─▶ report

It prints nothing: progress goes to an injected :class:`leakaudit.observer.Observer`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import available
from leakaudit.audit import assemble
from leakaudit.audit.attacks import chosen_attacks
from leakaudit.audit.budget import Budget, attacks_share
from leakaudit.audit.cache import Cache
from leakaudit.audit.campaign import campaign_of, run_attacks
from leakaudit.audit.contradiction import without_contradicted
from leakaudit.audit.controls import control
from leakaudit.audit.draw import make_victims
from leakaudit.audit.environment import choose_device, reproducible, seed_of, timestamp, versions
from leakaudit.audit.examined import examined_claims, examined_defences
from leakaudit.audit.intake import Material, read_material, settled
from leakaudit.audit.memory import Memory
from leakaudit.audit.pace import Pace
from leakaudit.audit.plan import Plan, plan_of
from leakaudit.audit.reasons import Reason, entry_of, left_out
from leakaudit.audit.references import synthetic_batch
from leakaudit.audit.request import Request
from leakaudit.audit.round import settled as settled_round
from leakaudit.audit.round import with_sent_statistics
from leakaudit.audit.scene import Run, Scene
from leakaudit.audit.victim import Victim
from leakaudit.client.accuracy import Accuracy, accuracy_on
from leakaudit.client.batch import Batch
from leakaudit.client.observe import refuse_unfit
from leakaudit.defences.base import defended_model
from leakaudit.document.schema import BatchSection, ControlEntry, RankSection
from leakaudit.document.version import __version__
from leakaudit.errors import ModelError
from leakaudit.findings import Evidence, judge
from leakaudit.findings.recommend import recommend
from leakaudit.findings.verdict import conclude
from leakaudit.observer import Observer, SilentObserver, remark
from leakaudit.report.saving import Report
from leakaudit.risk.dependence import read_entries
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.what_if import smallest_changes
from leakaudit.scoring.base import Judging, Measure, measure_for
from leakaudit.target.target import Target

UNSCORED = 8
"""Generated samples where nobody has those of a recorded update; chosen: they only give controls a scale."""


def audit(
    target: Target,
    samples: Batch,
    request: Request,
    *,
    observer: Observer | None = None,
    memory: Memory | None = None,
    material: Material | None = None,
    started: float | None = None,
) -> Report:
    """Audit a loaded model on loaded samples.

    Args:
        target: The model in the mode of the client's training; its domain has the client's normalisation.
        samples: Private samples; only the client and the scorer see them.
        request: What to run. How model and samples are read, it no longer says here.
        observer: Told the progress.
        memory: Shared with other audits of the same caller; by default a new one, on disk if the request asks for it.
        material: What the request names beside model and samples, where it was read before.
        started: When the time budget began, on the monotonic clock; by default now.

    Raises:
        UsageError: A request that does not fit the samples or the machine.
        AuditError: No update can be computed.
    """
    started = time.monotonic() if started is None else started
    scope, plain = _scoped(target, samples, request, observer, memory, material)
    measure = make_measure(plain, samples, scope.request, scope.material.distractors, scope.read)
    return _reported(scope, measure, _measured(scope, measure, started), started)


def planned(
    target: Target, samples: Batch, request: Request, *, observer: Observer | None = None, started: float | None = None
) -> Plan:
    """What :func:`audit` would do, and how long that would take; nothing is attacked, and nothing kept.

    Args:
        target: As of :func:`audit`, like `samples`, `request` and `observer`.
        samples: See there.
        request: See there.
        observer: See there.
        started: When the time budget began, on the monotonic clock; by default now.

    Raises:
        UsageError: As :func:`audit`.
        AuditError: No update can be computed.
    """
    started = time.monotonic() if started is None else started
    scope, _ = _scoped(target, samples, request, observer, None, None)
    with reproducible(scope.target, request.seed):
        _, victims, _ = _before(scope)
        pace = Pace(scope.target, victims[0], scope.request.time_budget)
        campaign = campaign_of(scope.attacks, scope.target, victims, scope.request)
        return plan_of(campaign, scope.target, victims, scope.request, pace, time.monotonic() - started)


def _scoped(
    target: Target,
    samples: Batch,
    request: Request,
    observer: Observer | None,
    memory: Memory | None,
    material: Material | None,
) -> tuple[_Scope, Target]:
    """What one audit works with, and the model without what defences do to it."""
    material = material or read_material(request, target, samples)
    rounds = material.recorded.audited
    request = settled_round(request, rounds[0]) if rounds else settled(request, samples)
    target = with_sent_statistics(target, rounds)
    model = defended_model(target, request.defending(), seed_of(request.seed, "defence", 0))
    scope = _Scope(
        target=model,
        read=read_entries(model),
        samples=samples,
        request=request,
        material=material,
        observer=observer or SilentObserver(),
        memory=(memory or Memory(Cache() if request.cache else None)).within(request),
        device=choose_device(request.device),
        attacks=chosen_attacks(request),
    )
    refuse_unfit(scope.target, request.defending())
    for claim in request.claimed():
        refuse_unfit(scope.target, [claim])
    return scope, target


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scope:
    """What one audit works with; `read` are the entries of a sample that the model reads."""

    target: Target
    read: Tensor
    samples: Batch
    request: Request
    material: Material
    observer: Observer
    memory: Memory
    device: torch.device
    attacks: list[Attack]


@dataclass(frozen=True, eq=False)
class _Measured:
    """What was measured, in the order of measuring; `silent` counts victims without a trace."""

    rank: RankSection
    victims: list[Victim]
    silent: int
    accuracy: Accuracy
    runs: list[Run]
    reasons: dict[str, Reason]
    controls: list[ControlEntry]


def _measured(scope: _Scope, measure: Measure[Any], started: float) -> _Measured:
    """Rank analysis, updates, attacks, and controls, within the time budget since `started`."""
    target, request, observer = scope.target, scope.request, scope.observer
    with reproducible(target, request.seed):
        rank, victims, silent = _before(scope)
        accuracy = accuracy_on(target, scope.samples, target.domain)
        classes = target.classes if target.task.kind == "single-label" else 0
        if told := accuracy.told(classes, target.domain.misread):
            remark(observer, told)
        pace = Pace(target, victims[0], request.time_budget)
        campaign = campaign_of(scope.attacks, target, victims, request)
        if not observer.interrupted():
            if any(turn.attack.planned for turn in campaign.turns):
                observer.stage("measuring a step of an attack")
            plan = plan_of(campaign, target, victims, request, pace, time.monotonic() - started)
            for line in plan.short:
                remark(observer, line)
        share = attacks_share(len(victims)) if request.controls != "none" else 1.0
        budget = Budget.of(observer, request.time_budget, share, time.monotonic() - started)
        runs, reasons, victims = run_attacks(*(campaign, target, victims, measure, request, budget, scope.memory, pace))
        if request.controls != "none":
            observer.stage("controls")
        scene = Scene(
            *(target, scope.samples, target.domain, measure, victims[0].observation.protocol),
            *(victims[0].knowledge, budget.whole(), scope.memory),
            level=request.controls,
        )
        if request.recorded:  # what is computed here is of these samples
            runs = without_contradicted(runs)
        runs, controls = control(runs, scene)
    return _Measured(rank, victims, silent, accuracy, runs, reasons, controls)


def _before(scope: _Scope) -> tuple[RankSection, list[Victim], int]:
    """Rank analysis, the victims with their updates and labels, and how many leave no trace."""
    scope.observer.stage("rank analysis")
    rank = assess_architecture(scope.target, scope.request)
    scope.target.to(scope.device)
    scope.observer.stage("computing the client's updates")
    return rank, *make_victims(scope.target, scope.samples, scope.request, scope.material, scope.observer)


def _evidence(scope: _Scope, found: _Measured, batch: BatchSection) -> Evidence:
    """The sections that findings are judged by."""
    target, request, first = scope.target, scope.request, found.victims[0]
    chosen = {run.attack.name for run in found.runs}
    entries = [entry_of(run, first, found.reasons) for run in found.runs]
    entries += [left_out(name, first, request) for name in available() if name not in chosen]
    ran = [run.attack for run in found.runs if run.outcomes]
    claims = examined_claims(target, found.victims, request, scope.material)
    return Evidence(
        assemble.target_section(target, int((~scope.read).sum())),
        assemble.protocol_section(
            first.observation.protocol, request.defending(), scope.material.recorded, scope.target
        ),
        found.rank,
        entries,
        batch,
        found.controls,
        examined_defences(target, first, request, ran, claims, scope.material),
        claims,
        partial="interrupted by the user; attacks not run are marked" if scope.observer.interrupted() else "",
    )


def _reported(scope: _Scope, measure: Measure[Any], found: _Measured, started: float) -> Report:
    """Findings, advice and verdict, with what they follow from."""
    request, domain = scope.request, scope.target.domain
    size = request.protocol.batch_size
    batch = assemble.batch_section(scope.samples, domain, size, found.victims, found.accuracy, found.silent)
    evidence = _evidence(scope, found, batch)
    findings = judge(evidence)
    recommendations = recommend(scope.target, evidence)
    return Report(
        tool=assemble.tool(__version__),
        created=timestamp(),
        command=request.command(),
        seed=request.seed,
        preset=request.preset,
        threat_model=request.threat_model,
        device=str(scope.device),
        versions=versions(),
        seconds=time.monotonic() - started,
        partial=evidence.partial,
        target=evidence.target,
        batch=batch,
        protocol=evidence.protocol,
        rank=evidence.rank,
        metrics=assemble.metric_entries(measure),
        attacks=evidence.attacks,
        controls=list(evidence.controls),
        defences=list(evidence.defences),
        claims=list(evidence.claims),
        recommendations=recommendations,
        findings=findings,
        verdict=conclude(evidence, findings, request.preset),
    )


def assess_architecture(target: Target, request: Request) -> RankSection:
    """Rank analysis; where it does not apply or the model's operators cannot be recorded, the section says why."""
    size = request.protocol.batch_size
    try:
        report = rank_analysis(target, batch_size=size, seed=request.seed).to_document()
        report.smallest_changes = [v.sentence() for v in smallest_changes(target, batch_size=size)]
        return report
    except ModelError as error:
        return RankSection(risk="unknown", score=None, score_reason=error.message, layers=[], notes=[error.message])


def make_measure(
    target: Target, samples: Batch, request: Request, distractors: Tensor | None, read: Tensor | None = None
) -> Measure[Any]:
    """The measure of the samples, as strict as was asked for, of the entries that the model reads (all by default).

    Where nobody has the samples, it is that of generated ones: it shows reconstructions, and scores controls.
    """
    if not samples.known:
        samples = synthetic_batch(target, target.domain, UNSCORED, 1)
    weights = None if request.lpips_weights is None else Path(request.lpips_weights)
    judging = Judging(criterion=request.criterion, distractors=distractors, lpips_weights=weights, read=read)
    return measure_for(target.domain, samples, judging)
