"""From a request to what it names, read: the model with the client's normalisation, the samples, and public data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from leakaudit.attacks.registry import available, create
from leakaudit.audit.request import Request
from leakaudit.audit.rounds import Rounds, at_the_beginning, own_samples, read_recorded, refuse_shared_batch
from leakaudit.audit.shares import own_share
from leakaudit.client.batch import Batch, refuse_overlap
from leakaudit.client.readers.base import Reader, Reading, Source, reader_for
from leakaudit.client.readers.tasks import with_task
from leakaudit.domains.schema import read_schema
from leakaudit.errors import UsageError, nearest
from leakaudit.matching.generator import OwnGenerator
from leakaudit.observer import Observer, remark
from leakaudit.target import Target, load
from leakaudit.target.isolated import load_isolated
from leakaudit.target.target import taken_for

Model = str | Path | nn.Module | Target
FOR_FILES = ("factory",)
"""Fields that say how a model file is read, and mean nothing for a module."""
READ_BEFORE = (*FOR_FILES, "output", "frozen", "trained", "dropout", "loss", "task", "pos_weight", "batchnorm")
"""Fields that a Target was read with."""


@dataclass(frozen=True, eq=False)
class Case:
    """A model and private samples that fit it.

    Args:
        target: The model, with the client's normalisation.
        samples: For its victims; without those of a recorded update, unknown ones.
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
        generator: The user's own generator of similar samples, or ``None``.
        distractors: Further images (M, C, H, W) in 0..1 that a sample must be told from, or ``None``.
        recorded: What real clients sent, attacked in place of updates computed here.
    """

    auxiliary: Tensor | None = None
    distractors: Tensor | None = None
    recorded: Rounds = field(default_factory=Rounds)
    generator: OwnGenerator | None = None


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
    options: dict[str, Any] = {
        "mode": request.protocol.mode,
        "output": request.output,
        "frozen": request.frozen,
        "trained": request.trained,
        "factory": request.factory,
        "trust": request.trust,
        "unsafe_pickle": request.unsafe_pickle,
        "image_shape": request.input_shape,
        "dropout": request.dropout,
        "loss": request.loss,
        "task": request.task,
        "pos_weight": request.pos_weight,
        "batchnorm": request.batchnorm,
        "share_bn_statistics": request.protocol.shared_statistics,
    }
    return load(source, **options) if isinstance(source, nn.Module) else load_isolated(source, **options)


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
    names = ("mean", "std", "auxiliary", "generator", "resize", "distractors")
    reader_for(target).refuse({f"--{name}": getattr(request, name) for name in names})
    target = at_the_beginning(request, target)
    target = replace(target, domain=target.domain.normalised(request.mean, request.std))
    if request.schema is not None:
        target = replace(target, domain=target.domain.with_columns(read_schema(request.schema)))
    observer.stage("reading the batch")
    source = request.batch if batch is None else reader_for(target).gathered(batch)
    if source is None and not request.recorded:
        raise UsageError("no batch: the request names no file, and none was given", "scan('model.onnx', 'batch.npz')")
    if source is not None:
        refuse_shared_batch(request)
        target = with_task(target, source)
    remark(observer, taken_for(target))
    reader = _reader(request, target)
    target, samples = own_samples(request, reader) if source is None else reader.fitted(source)
    if target.domain.assumption:
        remark(observer, target.domain.assumption)
    return Case(target, samples, _reader(request, target))


def _reader(request: Request, target: Target) -> Reader:
    return reader_for(target, Reading(layout=request.layout, values=request.values, resize=request.resize))


def read_material(request: Request, target: Target, samples: Batch) -> Material:
    """Public data, the user's generator and the recorded update of a request.

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
    recorded = read_recorded(request, target, samples) if request.recorded else Rounds()
    own = OwnGenerator.of(request.generator, target.domain) if request.generator else None
    return Material(auxiliary, distractors, recorded, own)


def settled(request: Request, samples: Batch) -> Request:
    """The request for these samples: a client that trains locally has all of them unless told otherwise.

    Of what is recorded, every round has samples of its own: `leakaudit.audit.round.settled`.

    Raises:
        UsageError: An option is for recorded updates alone, or what weight decay did does not follow.
    """
    _refuse_unknown_decay(request)
    if request.recorded:
        return request
    if request.weight_decay is not None and not request.local:
        raise UsageError(
            "--weight-decay is taken out of a recorded update, and there is none",
            "pass --update FILE, or --learning-rate for clients that train locally",
        )
    each = own_share(request, len(samples))
    return replace(request, samples=each) if request.local and request.samples is None else request


def _refuse_unknown_decay(request: Request) -> None:
    """Refuse a weight decay whose effect does not follow, as the training that it belongs to is not known.

    Raises:
        UsageError: Says what it would follow from.
    """
    if request.weight_decay and request.unknown:
        words = " and ".join(name.replace("_", " ") for name in request.unknown)
        raise UsageError(
            f"weight_decay is {request.weight_decay:g}, but what it took off the weights follows from the {words} too, "
            "said to be unknown",
            "leave out --weight-decay: it is fitted where rows that no sample touched show it",
        )


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
