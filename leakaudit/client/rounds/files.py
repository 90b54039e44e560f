"""An update that a real client shared, read from a file, to be audited in place of the one computed here.

The file holds numbers only: the client's weights after training, their difference from those before, or a gradient of
the mean loss. Tensors that the client does not share may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from leakaudit.client.readers.npz import hash_files
from leakaudit.client.rounds.arrays import read_arrays
from leakaudit.client.rounds.decay import Decay, without_decay
from leakaudit.client.rounds.kinds import Kind, are_weights
from leakaudit.client.rounds.naming import payload
from leakaudit.errors import UpdateError
from leakaudit.target.target import Target

UNIT = "an update is a gradient, or weights after local training with --learning-rate and what is known of it"


@dataclass(frozen=True, eq=False)
class RecordedUpdate:
    """What a client shared.

    Args:
        tensors: By the names of the model's trainable tensors, of their shapes and types, on the CPU.
        path: The file.
        sha256: Hash of the file.
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
    path: str | Path,
    target: Target,
    weight_decay: float | None = None,
    *,
    local: bool = False,
    kind: Kind | None = None,
    option: str = "--update",
) -> RecordedUpdate:
    """Read a recorded update of a model.

    Args:
        path: See :func:`leakaudit.client.rounds.arrays.read_arrays`.
        target: The model that the client trained, before the first step.
        weight_decay: λ of the optimiser of a client that sent a gradient, which is taken out; 0 for none, ``None`` to
            fit it where rows that nothing else touched show it.
        local: Whether the client took local steps: what is not weights is then called a difference, otherwise a
            gradient.
        kind: What the file holds, where that is known; otherwise weights are told from their likeness to the model's.
        option: Names the file in errors.

    Raises:
        UsageError: The path does not exist or is of another format.
        UpdateError: The content does not fit the model.
    """
    path = Path(path)
    found = payload(read_arrays(path, option), target, str(path))
    tensors = found.tensors
    if not any(bool(tensor.any()) for tensor in tensors.values()):
        raise UpdateError(f"{path} is zero in every tensor: there is nothing to attack", "record what the client sent")
    before = {name: tensor.detach().cpu() for name, tensor in target.parameters.items()}
    told = kind or ("weights" if are_weights(tensors, before) else "delta" if local else "gradient")
    if told == "weights" and all(bool((tensors[name] == before[name]).all()) for name in tensors):
        raise UpdateError(f"{path} holds the model's own weights: the client learnt nothing", "record what it sent")
    decay = None
    if told == "gradient":
        tensors, decay = without_decay(tensors, target.parameters, weight_decay)
        if not any(bool(tensor.any()) for tensor in tensors.values()):
            raise UpdateError(f"{path} holds nothing beside weight decay: there is nothing to attack", UNIT)
    return RecordedUpdate(tensors, str(path), hash_files([path]), told, found.buffers, found.notes, decay)
