"""The pipeline: model and samples in, report out.

::

    target ─┬─ rank analysis ───────────────────────────────────────────────────────┐
    batch ──┴─ client.observe ─▶ observation ─▶ labels ─▶ attacks ─▶ score ─▶ controls ─▶ findings ─▶ verdict ─▶ report

It prints nothing: progress goes to an injected :class:`leakaudit.observer.Observer`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import available, create
from leakaudit.audit import assemble
from leakaudit.audit.auxiliary import with_auxiliary
from leakaudit.audit.budget import Budget, attacks_share
from leakaudit.audit.cache import Cache
from leakaudit.audit.campaign import Reason, entry_of, left_out, run_attacks
from leakaudit.audit.contradiction import without_contradicted
from leakaudit.audit.controls import control
from leakaudit.audit.defended import claim_entry, defence_entries
from leakaudit.audit.environment import choose_device, reproducible, seed_of, timestamp, versions
from leakaudit.audit.intake import Material, read_material, settled
from leakaudit.audit.memory import Memory
from leakaudit.audit.pace import Pace
from leakaudit.audit.plan import Plan, plan_of
from leakaudit.audit.practice import practice_of, single_numbers
from leakaudit.audit.references import synthetic_batch
from leakaudit.audit.request import Request
from leakaudit.audit.rounds import settled as settled_round
from leakaudit.audit.rounds import with_sent_statistics
from leakaudit.audit.scene import Run, Scene
from leakaudit.audit.victim import Knowledge, Victim, observe_victim
from leakaudit.client.accuracy import Accuracy, accuracy_on
from leakaudit.client.batch import Batch
from leakaudit.client.examine import (
    UNKNOWN_SAMPLES,
    DefenceEvidence,
    examine,
    examine_claims,
    examine_recorded,
)
from leakaudit.client.observe import NoTraceError, refuse_unfit
from leakaudit.defences.base import defended_model, defended_protocol
from leakaudit.defences.obstacles import Circumstances
from leakaudit.document.schema import BatchSection, ClaimEntry, ControlEntry, DefenceEntry, RankSection
from leakaudit.document.version import __version__
from leakaudit.errors import ModelError, UsageError
from leakaudit.findings import Evidence, judge
from leakaudit.findings.recommend import recommend
from leakaudit.findings.verdict import conclude
from leakaudit.observer import Observer, SilentObserver, remark
from leakaudit.protocols.base import Protocol
from leakaudit.report.saving import Report
from leakaudit.risk.dependence import read_entries
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.what_if import smallest_changes
from leakaudit.scoring.base import Judging, Measure, measure_for
from leakaudit.target.coupling import coupling
from leakaudit.target.target import Target

UNSCORED = 8
"""Generated samples where nobody has those of a recorded update; chosen: they only give controls a scale."""
DEFAULT_VICTIMS = 4
"""Batches that are attacked where the user names no number; chosen for time."""


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
        pace = Pace(scope.target, victims[0])
        spent = time.monotonic() - started
        return plan_of(scope.attacks, scope.target, victims, scope.request, pace, spent)


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
        pace = Pace(target, victims[0])
        if not observer.interrupted():
            observer.stage("measuring a step of an attack")
            plan = plan_of(scope.attacks, target, victims, request, pace, time.monotonic() - started)
            for line in plan.short:
                remark(observer, line)
        share = attacks_share(len(victims)) if request.controls != "none" else 1.0
        budget = Budget.of(observer, request.time_budget, share, time.monotonic() - started)
        runs, reasons, victims = run_attacks(
            *(scope.attacks, target, victims, measure, request, budget, scope.memory, pace)
        )
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
    chosen = {attack.name for attack in scope.attacks}
    entries = [entry_of(run, first, found.reasons) for run in found.runs]
    entries += [left_out(name, first, request) for name in available() if name not in chosen]
    claims = _claims(target, found.victims, request, scope.material)
    return Evidence(
        assemble.target_section(target, int((~scope.read).sum())),
        assemble.protocol_section(
            first.observation.protocol, request.defending(), scope.material.recorded, scope.target
        ),
        found.rank,
        entries,
        batch,
        found.controls,
        _defences(target, first, request, [run.attack for run in found.runs if run.outcomes], claims, scope.material),
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


def chosen_attacks(request: Request) -> list[Attack]:
    """The attacks that were asked for, or all that run by default, the cheapest first; later ones build on earlier."""
    chosen = request.attacks or tuple(name for name, attack in available().items() if attack.by_default)
    return sorted((_created(name, request) for name in chosen), key=lambda attack: attack.cost)


def _created(name: str, request: Request) -> Attack:
    """An attack with its settings; without a cache, nothing that it makes is kept either.

    One that learns from samples is tried in passing, unless the user asked for it or named samples.
    """
    attack = create(name, request.preset, request.settings.get(name))
    asked = name in request.attacks or name in request.settings or request.auxiliary is not None
    attack = attack.tried_in_passing() if attack.uses_auxiliary and not asked else attack
    if not request.cache and getattr(attack.settings, "cache", False):
        attack.settings = replace(attack.settings, cache=False)
    return attack


def assess_architecture(target: Target, request: Request) -> RankSection:
    """Rank analysis; where it does not apply or the model's operators cannot be recorded, the section says why."""
    size = request.protocol.batch_size
    try:
        report = rank_analysis(target, batch_size=size, seed=request.seed).to_document()
        report.smallest_changes = [v.sentence() for v in smallest_changes(target, batch_size=size)]
        return report
    except ModelError as error:
        return RankSection(risk="unknown", score=None, score_reason=error.message, layers=[], notes=[error.message])


def make_victims(
    target: Target,
    samples: Batch,
    request: Request,
    material: Material | None = None,
    observer: Observer | None = None,
) -> tuple[list[Victim], int]:
    """Draw the victims, compute the update of each, and infer its labels from the update.

    Once the observer is interrupted, one that is there is enough.

    Returns:
        The victims, and how many more were drawn whose update is zero: they leave nothing to attack.

    Raises:
        NoTraceError: That is so for all of them.
    """
    material = material or Material()
    if material.recorded.audited:
        return _recorded_victims(target, samples, request, material), 0
    protocol = _protocol(target, samples, request)
    count = request.victims or max(1, min(DEFAULT_VICTIMS, len(samples) // protocol.batch_size))
    drawn = samples.draw(count, protocol.batch_size, request.seed)
    knowledge = _knowledge(target, samples, request, material, drawn)
    victims: list[Victim] = []
    silent: list[NoTraceError] = []
    for number, batch in enumerate(drawn):
        if victims and observer is not None and observer.interrupted():
            break
        try:
            victims.append(observe_victim(target, batch, protocol, target.domain, knowledge, number))
        except NoTraceError as nothing:
            silent.append(nothing)
    if not victims:
        raise silent[0]
    return victims, len(silent)


def _recorded_victims(target: Target, samples: Batch, request: Request, material: Material) -> list[Victim]:
    """One victim for every recorded round: what its client sent, by the protocol of that round."""
    knowledge = _knowledge(target, samples, request, material, [own.batch for own in material.recorded.audited])
    victims: list[Victim] = []
    for number, own in enumerate(material.recorded.audited):
        model = None
        if own.target is not None:
            begun = replace(own.target, shared_statistics=target.shared_statistics)
            model = defended_model(begun, request.defending(), seed_of(request.seed, "defence", 0))
            model.to(next(iter(target.parameters.values())).device)
        asked = settled_round(request, own)
        if own.update.decay and asked.local:
            asked = replace(asked, weight_decay=own.update.decay.rate)
        protocol = _protocol(model or target, own.batch, asked).sharing(own.update.kind)
        victims.append(observe_victim(target, own.batch, protocol, target.domain, knowledge, number, own.update, model))
    return victims


def _defences(
    target: Target,
    victim: Victim,
    request: Request,
    ran: Sequence[Attack],
    claims: Sequence[ClaimEntry],
    material: Material,
) -> list[DefenceEntry]:
    """What the defences guarantee, what they did to the first victim's update, and which attacks evaluated them."""
    defences = request.defending()
    if not defences:
        return []
    seed = seed_of(request.seed, "client", victim.number)
    recorded = request.recorded
    if victim.batch.known:
        evidence = examine(
            *(victim.model or target, victim.batch, victim.observation, seed, defences), recorded=recorded
        )
    else:
        evidence = [DefenceEvidence((), None, UNKNOWN_SAMPLES, UNKNOWN_SAMPLES) for _ in defences]
    protocol = victim.observation.protocol
    failed = tuple(check.what for claim in claims for check in claim.checks if not check.holds)
    circumstances = Circumstances(
        *(protocol.batch_size, coupling(target), protocol.beside),
        failed=failed,
        recorded=recorded,
        protocol=protocol,
        entries=sum(tensor.numel() for tensor in target.parameters.values()),
        scalars=single_numbers(target),
    )
    practice = practice_of(target, victim, request, material, defences)
    return defence_entries(defences, evidence, ran, circumstances, practice)


def _claims(target: Target, victims: Sequence[Victim], request: Request, material: Material) -> list[ClaimEntry]:
    """Whether updates look as the client believes, recorded ones without a claim as they should without a defence.

    A computed update is checked of the first victim alone, since one client makes them all; recorded ones wherever
    somebody has the samples.
    """
    looked = [victim for victim in (victims if request.recorded else victims[:1]) if victim.batch.known]
    found = [entry for victim in looked for entry in _claims_of(target, victim, request, material)]
    if len(looked) < 2:
        return found
    numbers = [victim.number for victim in looked for _ in range(len(found) // len(looked))]
    return [
        entry.model_copy(update={"text": f"{entry.text} (victim {number})"})
        for entry, number in zip(found, numbers, strict=True)
    ]


def _claims_of(target: Target, victim: Victim, request: Request, material: Material) -> list[ClaimEntry]:
    """The same of one victim."""
    target = victim.model or target
    seed = seed_of(request.seed, "client", victim.number)
    claims = request.claimed()
    if request.recorded and not (request.defences or claims):
        return [claim_entry("no defence", examine_recorded(target, victim.batch, victim.observation, seed))]
    if not claims:
        return []
    found = examine_claims(
        *(target, victim.batch, victim.observation, seed, claims, request.defending()),
        recorded=request.recorded,
    )
    practice = practice_of(target, victim, request, material, request.defending())
    pairs = zip(claims, found, strict=True)
    return [claim_entry(str(claim), checks, claim, practice) for claim, checks in pairs]


def _protocol(target: Target, samples: Batch, request: Request) -> Protocol:
    """How clients make an update, defences included; refuses what the model file or the batch file cannot serve."""
    protocol = defended_protocol(request.protocol_for(target), request.defending())
    size = protocol.batch_size
    wrong = [step for step in protocol.step_sizes if target.batch_sizes is not None and step not in target.batch_sizes]
    if wrong:
        sizes = ", ".join(map(str, target.batch_sizes or ()))
        what = f"--batch-size is {size}" if not request.defences else f"an update is of {size} samples"
        what = f"a local step is of {wrong[0]} samples" if protocol.steps > 1 else what
        raise UsageError(f"{what}, the model file takes {sizes}", "export it with a dynamic batch axis")
    if samples.known and size > len(samples) and size > request.protocol.batch_size:
        raise UsageError(
            f"--defence puts {size} samples behind an update, the batch file holds {len(samples)}",
            "use a larger batch file, or fewer clients or accumulated batches",
        )
    return protocol


def _knowledge(
    target: Target, samples: Batch, request: Request, material: Material, victims: Sequence[Batch]
) -> Knowledge:
    """What holds for every victim; `victims` are the batches behind all updates."""
    known = Knowledge(
        *(request.seed, request.defending(), material.auxiliary, request.threat_model >= "E"),
        generator=material.generator,
    )
    attacks = [attack for attack in chosen_attacks(request) if attack.threat_model <= request.threat_model]
    return with_auxiliary(known, target.domain, samples, victims, attacks)


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
