"""The victims of an audit: batches drawn from the samples or recorded by clients, with the update of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leakaudit.audit.attacks import chosen_attacks
from leakaudit.audit.auxiliary import with_auxiliary
from leakaudit.audit.environment import seed_of
from leakaudit.audit.intake import Material
from leakaudit.audit.request import Request
from leakaudit.audit.round import settled as settled_round
from leakaudit.audit.victim import Knowledge, Victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.client.observe import NoTraceError
from leakaudit.defences.base import defended_model, defended_protocol
from leakaudit.errors import UsageError
from leakaudit.observer import Observer
from leakaudit.protocols.base import Protocol
from leakaudit.target.target import Target

DEFAULT_VICTIMS = 4
"""Batches that are attacked where the user names no number; chosen for time."""


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
