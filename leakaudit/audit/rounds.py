"""Recorded rounds as victims: one for each client and round, however many a folder holds.

A round has settings of its own, its own samples or none, and the weights that its client began with. Rounds of one
report go together: they fit the model, and their clients train alike but for the number of samples. A round that does
not is left out and named. The scanned model is the one that at least one of them began with; rounds that began with
others of the same shapes (those of another server round) are attacked on their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakaudit.audit.kinds import Whole
from leakaudit.audit.protocol import LOCAL
from leakaudit.audit.request import Request
from leakaudit.audit.round import Round, checked, settled
from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Reader, reader_for
from leakaudit.client.readers.npz import SAMPLE_KEYS, hash_files, read_joined, read_npz
from leakaudit.client.readers.tasks import with_task
from leakaudit.client.rounds.carried import Carried, Trained, carried_between
from leakaudit.client.rounds.files import load_update
from leakaudit.client.rounds.folder import (
    began_with,
    begun_with,
    read_settings,
    read_shared,
    rounds_in,
    samples_of,
)
from leakaudit.client.rounds.naming import differing
from leakaudit.errors import LeakauditError, UpdateError, UsageError
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target.target import Target

ALIKE = (*LOCAL, "weight_decay", "mode")
"""Settings that the clients of one report have in common."""


@dataclass(frozen=True)
class LeftOut:
    """A round that is not audited: its folder, and why."""

    label: str
    reason: str


@dataclass(frozen=True, eq=False)
class Rounds:
    """All that was recorded.

    Args:
        audited: One victim each, in order of round and client.
        left_out: Those that do not go with the model or the others.
        carried: Pairs of rounds of one client between which momentum was kept.
    """

    audited: tuple[Round, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    carried: tuple[Carried, ...] = ()


def refuse_shared_batch(request: Request) -> None:
    """Refuse one batch for several rounds.

    Raises:
        UsageError: The request names a folder of rounds.
    """
    if request.round is not None and (count := len(rounds_in(request.round))) > 1:
        raise UsageError(
            f"--batch was given beside a folder of {count} rounds: whose samples are these?",
            "record them within each round (record(…, batch=…)), or pass one of its rounds: --round DIR/ROUND",
        )


def own_samples(request: Request, reader: Reader) -> tuple[Target, Batch]:
    """The samples that rounds hold themselves, and the model for their size; unknown ones where none does.

    Raises:
        BatchError: They do not fit the model, or not together.
    """
    folders = [] if request.round is None else rounds_in(request.round)
    paths = [path for folder in folders if (path := samples_of(folder)) is not None]
    if not paths:
        return reader.target, Batch.unknown(reader.target.image_shape)
    source = paths[0] if len(paths) == 1 else read_joined(paths, SAMPLE_KEYS)
    target = with_task(reader.target, source)
    return reader_for(target, reader.reading).fitted(source)


def at_the_beginning(request: Request, target: Target) -> Target:
    """The model with the weights that the client of a recorded update started from; its own where no file says them.

    Raises:
        UsageError: The file is of no update, or is not there.
        UpdateError: Its weights are not those of such a model.
    """
    if request.before is None:
        return target
    if request.update is None:
        raise UsageError(
            "--before holds the weights that an update started from, and there is none",
            "add --update; a --round has its own",
        )
    return target.at(begun_with(Path(request.before), target, "--before"))


def read_recorded(request: Request, target: Target, samples: Batch) -> Rounds:
    """What a request names as recorded: rounds, or one update.

    Args:
        request: With what the first round tells, see `leakaudit.audit.round_settings.with_round`.
        target: The model.
        samples: Behind the only update; of a folder of rounds, those of all that hold some.

    Raises:
        UpdateError: It does not fit the model; of several rounds, none of them does.
    """
    if request.update is not None:
        update = load_update(request.update, target, request.weight_decay, local=request.local)
        if request.before is not None:
            digest = hash_files([Path(request.before)])
            note = f"the client started from other weights than the model file's (SHA-256 {digest[:16]}…)"
            update = replace(update, notes=(*update.notes, note))
        return Rounds((checked(request, Round(update, samples), target),))
    folders = [] if request.round is None else rounds_in(request.round)
    if len(folders) == 1:
        return Rounds((checked(request, _only(request, folders[0], target, samples), target),))
    return _several(request, folders, target, samples) if folders else Rounds()


def _only(request: Request, folder: Path, target: Target, samples: Batch) -> Round:
    """The one round of a folder, which began with the scanned model."""
    if difference := differing(began_with(folder, target), target):
        raise UpdateError(*difference)
    return Round(read_shared(folder, target, request.weight_decay), samples, read_settings(folder))


def _several(request: Request, folders: Sequence[Path], target: Target, samples: Batch) -> Rounds:
    """Rounds that go together, and why the others do not."""
    audited: list[Round] = []
    left_out: list[LeftOut] = []
    errors: list[LeakauditError] = []
    begun: list[tuple[dict[str, Tensor], Target | None]] = []
    trained: list[Trained] = []
    place = len(samples)
    known = _known_places(folders)
    first = read_settings(folders[0])
    for folder in folders:
        label = str(folder.relative_to(Path(str(request.round))))
        try:
            told = read_settings(folder)
            own = known.get(folder)
            batch = _unknown(folder, request, told, samples, place) if own is None else samples.subset(own)
            place += 0 if batch.known else len(batch.indices)
            weights = began_with(folder, target)
            model = _target_of(weights, target, begun)
            _refuse_other_settings(folder, told, first)
            update = read_shared(folder, model or target, request.weight_decay)
            audited.append(checked(request, Round(update, batch, told, label, model), model or target))
            trained.append(_trained(audited[-1], request, weights, model or target))
        except LeakauditError as error:
            left_out.append(LeftOut(label, error.message))
            errors.append(error)
    if not audited or all(round_.target is not None for round_ in audited):
        if errors:
            raise errors[0]
        raise UpdateError(*(differing(began_with(folders[0], target), target) or ("no round fits the model", "")))
    return Rounds(tuple(audited), tuple(left_out), tuple(carried_between(trained)))


def _trained(round_: Round, request: Request, weights: Mapping[str, Tensor], target: Target) -> Trained:
    """A round with what its settings say of its momentum."""
    protocol = settled(request, round_).protocol_for(target)
    momentum = protocol.momentum if isinstance(protocol, FedAvg) and protocol.optimizer == "sgd" else 0.0
    update = round_.update
    return Trained(round_.label, round_.told, weights, update.tensors, update.kind, momentum, protocol.steps)


def _target_of(
    weights: dict[str, Tensor], target: Target, begun: list[tuple[dict[str, Tensor], Target | None]]
) -> Target | None:
    """The model with the weights that a round began with; ``None`` for the scanned one. Rounds alike share one."""
    if not differing(weights, target):
        return None
    for known, own in begun:
        if all(torch.equal(known[name], weights[name]) for name in target.parameters):
            return own
    own = target.at(weights)
    begun.append((weights, own))
    return own


def _refuse_other_settings(folder: Path, told: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Refuse a round whose client trained in another way than that of the first.

    Raises:
        UpdateError: Names the setting.
    """
    for name in ALIKE:
        mine, theirs = told.get(name) or None, first.get(name) or None
        if mine != theirs:
            raise UpdateError(
                f"{folder}: {name} is {mine}, the first round has {theirs}",
                "audit rounds of one kind of training together, the others on their own",
            )


def _known_places(folders: Sequence[Path]) -> dict[Path, range]:
    """Of the rounds that hold their samples, where these are among those of all."""
    found: dict[Path, range] = {}
    end = 0
    for folder in folders:
        if (path := samples_of(folder)) is not None:
            first, end = end, end + len(read_npz(path, None, SAMPLE_KEYS).inputs)
            found[folder] = range(first, end)
    return found


def _unknown(folder: Path, request: Request, told: Mapping[str, Any], samples: Batch, place: int) -> Batch:
    """The samples of one round of several that does not hold them: their number, the first of them at this place.

    Raises:
        UpdateError: It tells neither.
    """
    number = told.get("num_examples") or request.samples or (None if request.local else request.protocol.batch_size)
    try:
        number = Whole(least=1).take(number)
    except ValueError as error:
        raise UpdateError(
            f"{folder} does not tell how many samples are behind it ({number!r}, {error})",
            "add --samples, or num_examples to round.json",
        ) from error
    return Batch.unknown(samples.images.shape[1:], range(place, place + number))
