"""One recorded round: the request that it is audited under, and whether it is what its settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leakaudit.audit.request import Request
from leakaudit.audit.shares import own_share
from leakaudit.client.batch import Batch
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.client.rounds.local import local_decay
from leakaudit.client.rounds.mistaken import refuse_mistaken
from leakaudit.client.rounds.statistics import counted_steps, sent_statistics
from leakaudit.defences.base import defended_protocol
from leakaudit.errors import UpdateError, UsageError
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target.target import Target


@dataclass(frozen=True, eq=False)
class Round:
    """What one client sent in one round.

    Args:
        update: As it was recorded.
        batch: The samples behind it, or only their number.
        told: What its document says, by the names of `leakaudit.capture.record.SETTINGS`.
        label: Of several, the name of its folder.
        target: The model that it began with, where that is not the scanned one.
    """

    update: RecordedUpdate
    batch: Batch
    told: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    target: Target | None = None


def checked(request: Request, round_: Round, target: Target) -> Round:
    """The round with the number of its samples, if it is what its protocol shares and contradicts itself nowhere.

    Raises:
        UpdateError: They do.
    """
    asked = settled(request, round_)
    protocol = asked.protocol_for(target)
    update = round_.update
    signs = any(defence.signs for defence in (*request.defending(), *request.claimed()))
    whole = defended_protocol(protocol, request.defending()).privately(None)
    refuse_mistaken(update.tensors, update.kind, target, round_.batch, whole, update.path, signs=signs)
    steps = round_.told.get("local_steps")
    if request.local and not protocol.withheld and isinstance(steps, int) and steps != protocol.steps:
        raise UpdateError(
            f"{update.path}: the round says {steps} local steps, its settings make {protocol.steps} of "
            f"{protocol.batch_size} samples",
            "add --local-epochs and --local-batch-size as the client has them",
        )
    if not round_.batch.indices:
        round_ = replace(round_, batch=Batch.unknown(target.image_shape, range(whole.batch_size)))
    if isinstance(protocol, FedAvg) and protocol.linear and asked.weight_decay is None:
        round_ = replace(round_, update=local_decay(update, target.parameters, protocol))
    counted = counted_steps(target, round_.update.buffers)
    if counted is None or (counted == protocol.steps and not protocol.withheld):
        return round_
    made = "" if protocol.withheld else f", the settings make {protocol.steps}"
    note = f"BatchNorm's own counters say {counted} steps{made}"
    return replace(round_, update=replace(round_.update, notes=(*round_.update.notes, note)))


def settled(request: Request, round_: Round) -> Request:
    """The request for one round: its samples are all that are behind it, and it is one victim.

    Raises:
        UsageError: Another number was asked for, or none is known.
    """
    batch = round_.batch
    count = len(batch.indices)
    if not count:
        count = (request.samples or 0) if request.local else request.protocol.batch_size
    if not count:
        raise UsageError(
            "how many samples are behind the recorded update is not known, and no batch was given",
            "add --samples N, or --batch with the samples",
        )
    count = own_share(request, count) if batch.indices else count
    size = ("--samples", request.samples) if request.local else ("--batch-size", request.protocol.batch_size)
    several = bool(round_.label)
    for name, value, only in (*(() if several else ((*size, count),)), ("--victims", request.victims, 1)):
        if value not in (None, 1, only):
            raise UsageError(
                f"{name} is {value}, with a recorded update it is {only}",
                "the batch file must hold exactly the samples behind the update, and no others",
            )
    if request.local:
        return replace(request, victims=1, samples=count)
    return replace(request, victims=1, batch_size=count)


def with_sent_statistics(target: Target, rounds: Sequence[Round]) -> Target:
    """The model of clients that share BatchNorm's running statistics, where all recorded updates came with them."""
    if target.mode != "train" or target.shared_statistics != "none" or not rounds:
        return target
    sent = [sent_statistics(target, own.update.buffers) for own in rounds]
    return replace(target, shared_statistics="running") if all(sent) else target
