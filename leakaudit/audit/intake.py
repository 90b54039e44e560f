"""From a request to what it names, read: the model with the client's normalisation, the samples, and public data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from leakaudit.attacks.registry import available, create
from leakaudit.audit.request import LOCAL, Request
from leakaudit.client.batch import Batch, refuse_overlap
from leakaudit.client.readers.base import Reader, Reading, Source, reader_for
from leakaudit.client.rounds.files import RecordedUpdate, load_update
from leakaudit.client.rounds.folder import kind_of, read_round, read_settings
from leakaudit.client.rounds.kinds import refuse_mistaken
from leakaudit.domains.schema import read_schema
from leakaudit.errors import UpdateError, UsageError, nearest
from leakaudit.observer import Observer
from leakaudit.target import Target, load

Model = str | Path | nn.Module | Target
FOR_FILES = ("output", "factory")
"""Fields that say how a model file is read, and mean nothing for a module."""
READ_BEFORE = (*FOR_FILES, "frozen", "trained", "dropout", "loss", "batchnorm")
"""Fields that a Target was read with."""


@dataclass(frozen=True, eq=False)
class Case:
    """A model and private samples that fit it.

    Args:
        target: The model, with the client's normalisation.
        samples: For its victims.
        reader: Reads further samples alike.
    """

    target: Target
    samples: Batch
    reader: Reader


@dataclass(frozen=True, eq=False)
class Material:
    """What a request names beside model and samples.

    Args:
        auxiliary: Public images (N, C, H, W) in 0..1 for attacks of threat model D, or ``None``.
        distractors: Further images (M, C, H, W) in 0..1 that a sample must be told from, or ``None``.
        recorded: The update of a real client, attacked in place of one computed here, or ``None``.
    """

    auxiliary: Tensor | None = None
    distractors: Tensor | None = None
    recorded: RecordedUpdate | None = None


def read_model(request: Request, model: Model | None = None) -> Target:
    """The model of a request in the mode of its protocol, as the client trains it.

    Args:
        request: Says how it is read.
        model: In place of the request's file; a module is copied.

    Raises:
        UsageError: A field of the request does not fit such a model, or there is none.
        ModelError: It cannot be audited.
    """
    source = request.model if model is None else model
    if request.both_modes:
        raise UsageError("mode is 'both', expected eval or train", "only leakaudit scan compares both")
    if source is None:
        raise UsageError("no model: the request names no file, and none was given", "scan('model.onnx', 'batch.npz')")
    if isinstance(source, Target):
        _refuse(request, READ_BEFORE, "the Target was read before", "pass it to leakaudit.load")
        return source
    if isinstance(source, nn.Module):
        _refuse(request, FOR_FILES, "the model is a module in memory", "leave it out")
        source = copy.deepcopy(source)
    return load(
        source,
        mode=request.protocol.mode,
        output=request.output,
        frozen=request.frozen,
        trained=request.trained,
        factory=request.factory,
        trust=request.trust,
        unsafe_pickle=request.unsafe_pickle,
        image_shape=request.input_shape,
        dropout=request.dropout,
        loss=request.loss,
        batchnorm=request.batchnorm,
        share_bn_statistics=request.protocol.shared_statistics,
    )


def _refuse(request: Request, names: Sequence[str], why: str, hint: str) -> None:
    for name in names:
        if getattr(request, name):
            raise UsageError(f"{name} was given, but {why}", hint)


def read_case(request: Request, target: Target, batch: Source | None, observer: Observer) -> Case:
    """The samples of a request, and the model with its normalisation.

    Args:
        request: Says how samples are read.
        target: The model.
        batch: In place of the request's file.
        observer: Told the progress.

    Raises:
        UsageError: A field of the request does not fit the model, or there are no samples.
        BatchError: The samples do not fit it.
    """
    names = ("mean", "std", "auxiliary", "resize", "distractors")
    reader_for(target).refuse({f"--{name}": getattr(request, name) for name in names})
    target = replace(target, domain=target.domain.normalised(request.mean, request.std))
    if request.schema is not None:
        target = replace(target, domain=target.domain.with_columns(read_schema(request.schema)))
    reader = _reader(request, target)
    observer.stage("reading the batch")
    source = request.batch if batch is None else batch
    if source is None:
        raise UsageError("no batch: the request names no file, and none was given", "scan('model.onnx', 'batch.npz')")
    target, samples = reader.fitted(source)
    if target.domain.assumption:
        observer.stage(target.domain.assumption)
    return Case(target, samples, _reader(request, target))


def _reader(request: Request, target: Target) -> Reader:
    return reader_for(target, Reading(layout=request.layout, values=request.values, resize=request.resize))


def read_material(request: Request, target: Target, samples: Batch) -> Material:
    """Public data and the recorded update of a request.

    Raises:
        UsageError: A field does not fit the model or the samples.
        BatchError: Public samples do not fit the model, or private ones are among them.
        UpdateError: The update does not fit the model.
    """
    reader = _reader(request, target)
    auxiliary = reader.public(request.auxiliary) if request.auxiliary else None
    if auxiliary is not None:
        refuse_overlap(auxiliary, samples)
    distractors = reader.public(request.distractors) if request.distractors else None
    recorded = None
    if request.round:
        recorded = read_round(request.round, target)
    elif request.update:
        recorded = load_update(request.update, target, request.weight_decay, local=request.local)
    if recorded is not None:
        protocol = request.protocol_for(target)
        refuse_mistaken(recorded.tensors, recorded.kind, target, samples, protocol, recorded.path)
    return Material(auxiliary, distractors, recorded)


def with_round(request: Request) -> Request:
    """The request with what the document of its round says of the client's training, where no keyword says so.

    Raises:
        UsageError: The folder is no recorded round, or neither tells the learning rate.
        UpdateError: Its document is damaged, or a setting in it cannot be.
    """
    if request.round is None:
        return request
    if request.update is not None:
        raise UsageError("--update and --round were both given", "a round holds its update: leave out one of them")
    told = read_settings(request.round)
    known = {name: told[name] for name in LOCAL if told.get(name) not in (None, False, 0) and not request.says(name)}
    if told.get("mode") == "train" and request.protocol.mode == "eval":
        known["mode"] = "train"
    if told.get("weight_decay") and request.weight_decay is None:
        known["weight_decay"] = told["weight_decay"]
    if kind_of(Path(request.round)) == "gradient":
        return replace(request, **{name: value for name, value in known.items() if name == "mode"})
    if not request.local and "learning_rate" not in known:
        raise UsageError(
            f"{request.round} does not tell the learning rate of the client", "add --learning-rate, as 0.1"
        )
    try:
        return replace(request, **known)
    except UsageError as error:
        raise UpdateError(f"{request.round}/round.json: {error.message}", error.hint) from error


def settled(request: Request, samples: Batch) -> Request:
    """The request for these samples: a client that trains locally has all of them unless told otherwise.

    Of a recorded update all are behind it, and it is the only victim.

    Raises:
        UsageError: Another number was asked for.
    """
    if request.local and request.samples is None:
        request = replace(request, samples=len(samples))
    if not request.recorded:
        if request.weight_decay is not None and not request.local:
            raise UsageError(
                "--weight-decay is taken out of a recorded update, and there is none",
                "pass --update FILE, or --learning-rate for clients that train locally",
            )
        return request
    size = ("--samples", request.samples) if request.local else ("--batch-size", request.protocol.batch_size)
    asked = ((*size, len(samples)), ("--victims", request.victims, 1))
    for name, value, only in asked:
        if value not in (None, 1, only):
            raise UsageError(
                f"{name} is {value}, with a recorded update it is {only}",
                "the batch file must hold exactly the samples behind the update, and no others",
            )
    return replace(request, victims=1, batch_size=None if request.local else len(samples))


def refuse_settings(request: Request) -> None:
    """Refuse settings of an attack that does not exist, or that it does not have, also where it is not run.

    Raises:
        UsageError: Names it.
    """
    known = available()
    for name, own in request.settings.items():
        if name not in known:
            raise UsageError(
                f"--set {name}.{next(iter(own), '…')}: no attack named {name!r}",
                nearest(name, known, f"there are: {', '.join(known)} (leakaudit attacks)"),
            )
        create(name, request.preset, own)
