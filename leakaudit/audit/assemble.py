"""From the pipeline's values to the sections of the report document."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from leakaudit.attacks.base import Attack
from leakaudit.audit.recorded import recorded_facts
from leakaudit.audit.results import without_pictures
from leakaudit.defences.base import Defence
from leakaudit.document.counting import count
from leakaudit.document.paths import path_in_repository
from leakaudit.document.schema import (
    AttackEntry,
    BatchSection,
    Comparison,
    FidelityEntry,
    FirstLayer,
    MetricEntry,
    ProtocolSection,
    TargetSection,
    Tool,
    VictimResult,
)
from leakaudit.document.status import Cut, RunStatus
from leakaudit.errors import ModelError
from leakaudit.matching.candidates import SEARCHED
from leakaudit.observation import Observation
from leakaudit.protocols.base import Protocol
from leakaudit.risk.resting import resting
from leakaudit.target.dropout import dropout_layers
from leakaudit.target.inventory import inventory
from leakaudit.target.kinds import Layer
from leakaudit.target.target import Target

if TYPE_CHECKING:
    from leakaudit.audit.rounds import Rounds
    from leakaudit.audit.victim import Victim
    from leakaudit.client.accuracy import Accuracy
    from leakaudit.client.batch import Batch
    from leakaudit.domains.base import Domain
    from leakaudit.scoring.base import Measure


def tool(version: str) -> Tool:
    """The program and its version."""
    return Tool(version=version)


def target_section(target: Target, unread: int = 0) -> TargetSection:
    """The model as the auditor sees it; it reads all but so many entries of an input."""
    try:
        layers: tuple[Layer, ...] = inventory(target)
    except ModelError:  # its operators cannot be recorded; rank analysis says which
        layers = ()
    return TargetSection(
        name=target.name,
        path=target.path,
        repository_path=path_in_repository(target.path),
        sha256=target.sha256,
        format=target.format,
        producer=target.producer,
        classes=target.classes,
        task=target.task.kind,
        task_evidence=target.task_evidence,
        outputs=target.task.outputs,
        input_shape=list(target.image_shape),
        native_shape=list(target.native_shape),
        layout=target.layout,
        domain=target.domain.kind,
        **target.domain.facts(),
        unread=unread,
        parameters=sum(p.numel() for p in target.parameters.values()),
        trainable_tensors=len(target.parameters),
        layers=[f"{layer.name} ({layer.kind})" for layer in layers],
        resting=list(resting(target)),
        dropout_layers=list(dropout_layers(target.module)),
        batchnorm_layers=[layer.name for layer in layers if layer.kind == "batchnorm"],
        first_layer=_first_layer(target, layers),
        fidelity=[FidelityEntry(id=n.id, message=n.message, hint=n.hint) for n in target.fidelity],
        loss=target.task.describe(),
    )


def _first_layer(target: Target, layers: Sequence[Layer]) -> FirstLayer | None:
    """The first trained layer, if the input reaches it through nothing but views and constants."""
    trained = target.parameters
    for layer in layers:
        if layer.weight in trained or any(name in trained for name in layer.settings.get("tensors", ())):
            return FirstLayer(name=layer.name, kind=layer.kind, bias=layer.bias in trained)
        if layer.kind not in ("reshape", "affine", "pad", "slice", "dropout"):
            return None
    return None


def batch_section(
    samples: Batch, domain: Domain, batch_size: int, victims: Sequence[Victim], known: Accuracy, silent: int = 0
) -> BatchSection:
    """What may be said about the private samples, how the model does on them, and how many the updates show.

    `silent` victims had an update of zero and were not attacked.
    """
    nothing = (
        [f"{count(silent, 'more victim')} drawn whose update is zero in every tensor: nothing to attack"]
        if silent
        else []
    )
    return BatchSection(
        path=samples.path,
        sha256=samples.sha256,
        samples=len(samples),
        batch_size=batch_size,
        victims=len(victims),
        distinct_records=[None if v.records is None else v.records.rank for v in victims],
        mean=list(domain.normalisation[0]),
        std=list(domain.normalisation[1]),
        accuracy=known.share,
        accuracy_reason=known.reason,
        accuracy_samples=known.samples,
        class_names=list(samples.class_names),
        notes=[*samples.notes, *nothing],
    )


def protocol_section(
    protocol: Protocol, defences: Sequence[Defence] = (), recorded: Rounds | None = None, target: Target | None = None
) -> ProtocolSection:
    """How the update was made and defended, or where a recorded one came from; that of the first of several rounds."""
    shared = f"after {', then '.join(map(str, defences))}" if defences else "undefended"
    rounds = recorded.audited if recorded else ()
    made = "as a client recorded it and taken to be" if rounds else "computed"
    own = protocol.settings
    section = ProtocolSection(
        **{name: value for name, value in protocol.facts().items() if name not in own},
        settings=own,
        assumption=protocol.assumption(shared, made),
    )
    if recorded is None or not rounds:
        return section
    return section.model_copy(update=recorded_facts(recorded, target))


def attack_entry(
    attack: Attack,
    victim: Victim,
    status: RunStatus,
    reason: str = "",
    results: Sequence[VictimResult] = (),
) -> AttackEntry:
    """One row of the ledger: an attack, everything it was given, and its results."""
    return AttackEntry(
        name=attack.name,
        title=attack.title,
        status=status,
        reason=reason,
        family=attack.family,
        finding=attack.finding,
        threat_model=victim.seen_by(attack).threat_model,
        upper_bound=attack.upper_bound,
        given=_given(victim, attack),
        auxiliary=victim.knowledge.held_by(attack),
        in_passing=attack.in_passing,
        hyperparameters=_hyperparameters(attack),
        planned=attack.planned,
        reference=attack.reference,
        seconds=sum(r.seconds for r in results),
        results=list(results),
    )


def _hyperparameters(attack: Attack) -> dict[str, Any]:
    """Its settings; what a search chose for each victim stands in the notes of the results."""
    values = dataclasses.asdict(attack.settings)
    chosen = SEARCHED & values.keys() if values.get("search") else ()
    return {**values, **dict.fromkeys(chosen, "chosen by trials")}


def comparison(
    rival: Attack,
    results: Sequence[VictimResult],
    reason: str = "",
    cut: Cut | None = None,
    *,
    in_ledger: bool,
    own: Sequence[VictimResult] = (),
) -> Comparison:
    """What stands beside an attack whose own results are given: its rival's, without pictures."""
    return Comparison(
        name=rival.name,
        title=rival.title,
        hyperparameters=_hyperparameters(rival),
        reason=reason,
        cut=cut,
        in_ledger=in_ledger,
        gain=gain_over(results, own),
        seconds=sum(r.seconds for r in results),
        results=[without_pictures(result) for result in results],
    )


def gain_over(rival: Sequence[VictimResult], own: Sequence[VictimResult]) -> float | None:
    """What an attack adds to its rival, in dB: the median over the samples on which neither was cut short."""
    theirs = {(r.victim, s.index): s.decibels for r in rival if not r.cuts for s in r.samples}
    pairs = [(s.decibels, theirs.get((r.victim, s.index))) for r in own if not r.cuts for s in r.samples]
    gains = [ours - other for ours, other in pairs if ours is not None and other is not None]
    return median(gains) if gains else None


def _given(victim: Victim, attack: Attack) -> dict[str, Any]:
    observation = victim.seen_by(attack)
    return {
        "update": f"{len(observation.update)} gradient tensors, {_defended(victim)}",
        "model": "architecture, weights, loss",
        "batch_size": observation.batch_size,
        "mode": observation.protocol.mode,
        "labels": "none" if observation.labels is None else f"{observation.label_source}: {victim.guess.method}",
        "normalisation": observation.domain.describe(),
        "dropout_masks": "true masks" if observation.masks is not None else "none",
        "batch_statistics": _given_statistics(observation),
        "start": "random" if observation.start is None else "an incomplete closed-form result",
        "defences": _known_defences(victim, attack),
        "auxiliary_data": "none" if (learnt := victim.knowledge.held_by(attack)) is None else learnt.told,
    }


def _known_defences(victim: Victim, attack: Attack) -> str:
    """Which of the client's defences the attack works through, and which it ignores."""
    known = victim.known_by(attack)
    ignored = [str(defence) for defence in victim.knowledge.defences if defence not in known]
    told = ", then ".join(map(str, known)) or "none"
    return f"{told}; ignores {', '.join(ignored)}" if ignored else told


def _given_statistics(observation: Observation) -> str:
    if not observation.batch_statistics:
        return "none"
    origin = {
        "batch": "as the client shares them",
        "running": "computed from the running statistics that the client shares",
    }[observation.protocol.shared_statistics]
    return f"mean and variance over the batch of {len(observation.batch_statistics)} BatchNorm layers, {origin}"


def _defended(victim: Victim) -> str:
    return "after " + ", then ".join(map(str, victim.knowledge.defences)) if victim.knowledge.defences else "undefended"


def metric_entries(measure: Measure[Any]) -> list[MetricEntry]:
    """What samples are measured by."""
    known = MetricEntry.model_fields
    return [MetricEntry(**{k: v for k, v in dataclasses.asdict(spec).items() if k in known}) for spec in measure.shown]
