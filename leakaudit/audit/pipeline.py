"""The pipeline: model and samples in, report out.

::

    target ─┬─ rank analysis ───────────────────────────────────────────────────────┐
    batch ──┴─ client.observe ─▶ observation ─▶ labels ─▶ attacks ─▶ score ─▶ controls ─▶ findings ─▶ verdict ─▶ report

It prints nothing: progress goes to an injected :class:`leakaudit.observer.Observer`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from leakaudit import __version__
from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import available, create
from leakaudit.audit import assemble
from leakaudit.audit.budget import Budget
from leakaudit.audit.campaign import entry_of, left_out, run_attacks
from leakaudit.audit.controls import Scene, control
from leakaudit.audit.defended import claim_entry, defence_entries
from leakaudit.audit.environment import choose_device, reproducible, seed_of, timestamp, versions
from leakaudit.audit.memory import Memory
from leakaudit.audit.request import AuditOptions
from leakaudit.audit.victim import Knowledge, Victim, observe_victim
from leakaudit.client.accuracy import accuracy_on
from leakaudit.client.batch import Batch, refuse_overlap
from leakaudit.client.examine import examine, examine_claims, examine_recorded
from leakaudit.client.observe import NoTraceError
from leakaudit.defences.base import defended_model, defended_protocol
from leakaudit.document.schema import ClaimEntry, DefenceEntry, RankSection, Report
from leakaudit.domains.base import Domain
from leakaudit.errors import ModelError, UsageError
from leakaudit.findings import Evidence, judge
from leakaudit.findings.recommend import recommend
from leakaudit.findings.verdict import conclude
from leakaudit.observer import Observer, SilentObserver
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.what_if import smallest_changes
from leakaudit.scoring.base import Judging, Measure, measure_for
from leakaudit.target.target import Target

DEFAULT_VICTIMS = 4
"""Batches that are attacked where the user names no number; chosen for time."""
ATTACKS_SHARE = 0.75
"""Of a time budget; the controls get the rest, and what attacks leave over; chosen."""


def audit(
    target: Target,
    samples: Batch,
    domain: Domain,
    options: AuditOptions,
    *,
    observer: Observer | None = None,
    memory: Memory | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Audit a loaded model on loaded samples.

    Args:
        target: The model, loaded in the mode of the client's training.
        samples: Private samples; only the client and the scorer see them.
        domain: What a sample is, with the client's normalisation.
        options: What to run.
        observer: Told the progress.
        memory: Shared with other audits of the same caller; by default a new one on the cache of the options.
        command: For the report's *how to reproduce*.

    Raises:
        UsageError: Options that do not fit the samples or the machine.
        AuditError: No update can be computed.
    """
    started = time.monotonic()
    observer = observer or SilentObserver()
    memory = (memory or Memory(options.cache)).within(options.time_budget)
    device = choose_device(options.device)
    measure = make_measure(domain, samples, options)
    chosen = options.attacks or tuple(name for name, attack in available().items() if attack.by_default)
    attacks = [_created(name, options) for name in chosen]
    attacks.sort(key=lambda attack: attack.cost)  # later ones build on what earlier ones found
    if options.auxiliary is not None:
        refuse_overlap(options.auxiliary, samples)
    target = replace(target, domain=domain)
    target = defended_model(target, options.defences, seed_of(options.seed, "defence", 0))
    with reproducible(target, options.seed):
        observer.stage("rank analysis")
        rank_section = assess_architecture(target, options)
        target.to(device)
        observer.stage("computing the client's updates")
        victims, silent = make_victims(target, samples, domain, options)
        known = accuracy_on(target, samples, domain)
        share = ATTACKS_SHARE if options.controls != "none" else 1.0
        budget = Budget.of(observer, options.time_budget, share)
        runs, reasons, victims = run_attacks(attacks, target, victims, measure, options, budget, memory)
        if options.controls != "none":
            observer.stage("controls")
        protocol = victims[0].observation.protocol
        scene = Scene(
            *(target, samples, domain, measure, protocol, _knowledge(options), budget.whole(), memory),
            level=options.controls,
        )
        runs, controls = control(runs, scene)
    entries = [entry_of(run, victims[0], reasons) for run in runs]
    entries += [left_out(name, victims[0], options) for name in available() if name not in chosen]
    batch = assemble.batch_section(samples, domain, options.batch_size, len(victims), known, silent)
    defences = _defences(target, victims[0], options, [run.attack for run in runs if run.outcomes])
    evidence = Evidence(
        assemble.target_section(target),
        assemble.protocol_section(protocol, options.defences, options.recorded),
        rank_section,
        entries,
        batch,
        controls,
        defences,
        _claims(target, victims[0], options),
        partial="interrupted by the user; attacks not run are marked" if observer.interrupted() else "",
    )
    findings = judge(evidence)
    recommendations = recommend(target, evidence)
    return Report(
        tool=assemble.tool(__version__),
        created=timestamp(),
        command=list(command),
        seed=options.seed,
        preset=options.preset,
        threat_model=options.threat_model,
        device=str(device),
        versions=versions(),
        seconds=time.monotonic() - started,
        partial=evidence.partial,
        target=evidence.target,
        batch=batch,
        protocol=evidence.protocol,
        rank=rank_section,
        metrics=assemble.metric_entries(measure),
        attacks=entries,
        controls=controls,
        defences=defences,
        claims=list(evidence.claims),
        recommendations=recommendations,
        findings=findings,
        verdict=conclude(evidence, findings, options.preset),
    )


def _created(name: str, options: AuditOptions) -> Attack:
    """An attack with its settings; without a cache, nothing that it makes is kept either."""
    attack = create(name, options.preset, options.settings.get(name))
    if options.cache is None and getattr(attack.settings, "cache", False):
        attack.settings = replace(attack.settings, cache=False)
    return attack


def assess_architecture(target: Target, options: AuditOptions) -> RankSection:
    """Rank analysis; where it does not apply or the model's operators cannot be recorded, the section says why."""
    try:
        report = rank_analysis(target, batch_size=options.batch_size, seed=options.seed).to_document()
        report.smallest_changes = [v.summary() for v in smallest_changes(target, batch_size=options.batch_size)]
        return report
    except ModelError as error:
        return RankSection(risk="unknown", score=None, score_reason=error.message, layers=[], notes=[error.message])


def make_victims(target: Target, samples: Batch, domain: Domain, options: AuditOptions) -> tuple[list[Victim], int]:
    """Draw the victims, compute the update of each, and infer its labels from the update.

    Returns:
        The victims, and how many more were drawn whose update is zero: they leave nothing to attack.

    Raises:
        NoTraceError: That is so for all of them.
    """
    protocol = _protocol(target, samples, options)
    count = options.victims or max(1, min(DEFAULT_VICTIMS, len(samples) // protocol.batch_size))
    knowledge = _knowledge(options)
    recorded = options.recorded.tensors if options.recorded else None
    victims: list[Victim] = []
    silent: list[NoTraceError] = []
    for number, batch in enumerate(samples.draw(count, protocol.batch_size, options.seed)):
        try:
            victims.append(observe_victim(target, batch, protocol, domain, knowledge, number, recorded))
        except NoTraceError as nothing:
            silent.append(nothing)
    if not victims:
        raise silent[0]
    return victims, len(silent)


def _defences(target: Target, victim: Victim, options: AuditOptions, ran: Sequence[Attack]) -> list[DefenceEntry]:
    """What the defences guarantee, what they did to the first victim's update, and which attacks evaluated them."""
    if not options.defences:
        return []
    seed = seed_of(options.seed, "client", victim.number)
    evidence = examine(target, victim.batch, victim.observation, seed, options.defences)
    return defence_entries(options.defences, victim.observation.batch_size, evidence, ran)


def _claims(target: Target, victim: Victim, options: AuditOptions) -> list[ClaimEntry]:
    """Whether the first victim's update looks as the client believes; a recorded one, as it should without a claim."""
    seed = seed_of(options.seed, "client", victim.number)
    if options.recorded and not (options.defences or options.claims):
        return [claim_entry("no defence", examine_recorded(target, victim.batch, victim.observation, seed))]
    found = examine_claims(target, victim.batch, victim.observation, seed, options.claims) if options.claims else []
    return [claim_entry(str(claim), checks) for claim, checks in zip(options.claims, found, strict=True)]


def _protocol(target: Target, samples: Batch, options: AuditOptions) -> Protocol:
    """How clients make an update, defences included; refuses what the model file or the batch file cannot serve."""
    undefended = FedSGD(options.batch_size, target.mode, shared_statistics=target.shared_statistics)
    protocol = defended_protocol(undefended, options.defences)
    size = protocol.batch_size
    if target.batch_sizes is not None and size not in target.batch_sizes:
        sizes = ", ".join(map(str, target.batch_sizes))
        what = f"--batch-size is {size}" if not options.defences else f"an update is of {size} samples"
        raise UsageError(f"{what}, the model file takes {sizes}", "export it with a dynamic batch axis")
    if size > len(samples) and size > options.batch_size:
        raise UsageError(
            f"--defence puts {size} samples behind an update, the batch file holds {len(samples)}",
            "use a larger batch file, or fewer clients or accumulated batches",
        )
    return protocol


def _knowledge(options: AuditOptions) -> Knowledge:
    shared = options.threat_model >= "E"
    return Knowledge(options.seed, options.defences, options.auxiliary, shared)


def make_measure(domain: Domain, samples: Batch, options: AuditOptions) -> Measure[Any]:
    """The measure of the samples, as strict as was asked for."""
    judging = Judging(criterion=options.criterion, distractors=options.distractors, lpips_weights=options.lpips_weights)
    return measure_for(domain, samples, judging)
