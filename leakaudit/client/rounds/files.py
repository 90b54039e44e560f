"""An update that a real client shared, read from a file, to be audited in place of the one computed here.

The file holds numbers only: the client's weights after training, their difference from those before, or a gradient of
the mean loss. Tensors that the client does not share may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from leakaudit.client.readers.npz import hash_files
from leakaudit.client.rounds.arrays import ordered, read_sent
from leakaudit.client.rounds.decay import Decay, without_decay
from leakaudit.client.rounds.fobs import Sent
from leakaudit.client.rounds.given import Given
from leakaudit.client.rounds.kinds import ALIKE, Kind, are_weights, cosine
from leakaudit.client.rounds.naming import differing, payload
from leakaudit.errors import UpdateError
from leakaudit.target.parts import squared, squared_difference
from leakaudit.target.target import Target

IN_MEMORY = "the update in memory"
LOST = 0.1
"""Largest share of what weights moved that their rounding may be; chosen: it is then noise at 20 dB."""
SWAPPED = 0.9
"""Cosine with another tensor of the model from which on weights are taken for that one; chosen, above ALIKE."""
UNIT = "an update is a gradient, or weights after local training with --learning-rate and what is known of it"


@dataclass(frozen=True, eq=False)
class RecordedUpdate:
    """What a client shared.

    Args:
        tensors: By the names of the model's trainable tensors, of their shapes and types, on the CPU.
        path: The file, or :data:`IN_MEMORY`.
        sha256: Hash of the file, or of the arrays.
        kind: What they are; a difference is told from a gradient only by who knows more.
        buffers: What came beside them, such as running statistics, by the model's names.
        notes: What was left out or renamed, one sentence each.
        decay: Weight decay that was taken out of a gradient, or ``None``.
        round: Number of the round, counted from 1, where that is known.
    """

    tensors: Mapping[str, Tensor]
    path: str
    sha256: str
    kind: Kind = "gradient"
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    decay: Decay | None = None
    round: int | None = None


def load_update(
    path: str | Path | Given,
    target: Target,
    weight_decay: float | None = None,
    *,
    local: bool = False,
    kind: Kind | None = None,
    option: str = "--update",
) -> RecordedUpdate:
    """Read a recorded update of a model.

    Args:
        path: A file, see :func:`leakaudit.client.rounds.arrays.read_sent`, or arrays in memory.
        target: The model that the client trained, before the first step.
        weight_decay: λ of the optimiser of a client that sent a gradient, which is taken out; 0 for none, ``None`` to
            fit it where rows that nothing else touched show it.
        local: Whether the client took local steps: what is not weights is then called a difference, otherwise a
            gradient.
        kind: What it holds, where that is known; otherwise weights are told from their likeness to the model's.
        option: Names the file in errors.

    Raises:
        UsageError: The path does not exist or is of another format.
        UpdateError: The content does not fit the model.
    """
    sent = Sent(ordered(path.arrays)) if isinstance(path, Given) else read_sent(path, option)
    source = IN_MEMORY if isinstance(path, Given) else str(path)
    found = payload(sent.arrays, target, source)
    tensors = found.tensors
    if not any(bool(tensor.any()) for tensor in tensors.values()):
        raise UpdateError(f"{source} is zero in every tensor: there is nothing to attack", "record what it sent")
    before = {name: tensor.detach().cpu() for name, tensor in target.parameters.items()}
    kind = kind or sent.kind or _with_before(path, target)
    told = kind or ("weights" if are_weights(tensors, before) else "delta" if local else "gradient")
    if told == "weights":
        _refuse_unmoved(tensors, before, source, sent.arrays)
        _refuse_swapped(tensors, before, source)
    decay = None
    if told == "gradient":
        tensors, decay = without_decay(tensors, target.parameters, weight_decay)
        if not any(bool(tensor.any()) for tensor in tensors.values()):
            raise UpdateError(f"{source} holds nothing beside weight decay: there is nothing to attack", UNIT)
    digest = path.sha256 if isinstance(path, Given) else hash_files([Path(path)])
    notes = (*found.notes, *_half_note(sent.arrays))
    return RecordedUpdate(tensors, source, digest, told, found.buffers, notes, decay)


def _with_before(path: str | Path | Given, target: Target) -> Kind | None:
    """What arrays are that came with the weights before them.

    Raises:
        UpdateError: Those are not the model's.
    """
    if not isinstance(path, Given) or path.before is None:
        return None
    before = payload(ordered(path.before), target, "the weights before")
    if difference := differing({**before.tensors, **before.buffers}, target):
        raise UpdateError(*difference)
    return "weights"


def _refuse_unmoved(
    tensors: Mapping[str, Tensor], before: Mapping[str, Tensor], source: str, arrays: Mapping[str, Tensor]
) -> None:
    """Refuse weights that say nothing of a training: the model's own, or rounded by more than they moved.

    Raises:
        UpdateError: They are.
    """
    moved = sum(squared_difference(tensors[name], before[name]) for name in tensors) ** 0.5
    if moved == 0:
        raise UpdateError(f"{source} holds the model's own weights: the client learnt nothing", "record what it sent")
    rounding = max((torch.finfo(tensor.dtype).eps for tensor in _halves(arrays)), default=0.0) / 2
    size = sum(squared(before[name]) for name in tensors) ** 0.5
    if rounding * size > LOST * moved:
        raise UpdateError(
            f"{source} holds weights in {_halves(arrays)[0].dtype}".replace("torch.", "")
            + f": their rounding alone is {rounding * size / moved:.0%} of what they moved",
            "record them before the filter that rounds, or have clients send the difference of weights",
        )


def _refuse_swapped(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights of which one is unlike its own before, and like another of the same shape.

    Raises:
        UpdateError: Names both.
    """
    for name, tensor in tensors.items():
        if cosine({"": tensor}, {"": before[name]}) >= ALIKE or not bool(before[name].any()):
            continue
        for other, own in before.items():
            if own.shape == tensor.shape and cosine({"": tensor}, {"": own}) >= SWAPPED:
                raise UpdateError(
                    f"{source}: {name} looks like the model's {other}: the arrays are in another order",
                    "save them in the order of the state dict, or under the model's names",
                )


def _halves(arrays: Mapping[str, Tensor]) -> list[Tensor]:
    """The arrays of half precision."""
    return [tensor for tensor in arrays.values() if tensor.dtype in (torch.float16, torch.bfloat16)]


def _half_note(arrays: Mapping[str, Tensor]) -> tuple[str, ...]:
    half = _halves(arrays)
    return (f"{len(half)} arrays were sent in {str(half[0].dtype).removeprefix('torch.')}",) if half else ()
