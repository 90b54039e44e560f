"""An update that a real client shared, read from a file, to be audited in place of the one computed here.

The file holds numbers only: ``.npz`` or safetensors, an array per trainable tensor under its name in the model, in the
unit of a gradient of the mean loss. Tensors that the client does not share may be missing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.readers.npz import hash_files
from leakaudit.client.rounds.decay import Decay, without_decay
from leakaudit.errors import UpdateError, UsageError
from leakaudit.target.target import Target

UNIT = "an update is a gradient: divide a change of the weights by minus the learning rate"


@dataclass(frozen=True, eq=False)
class RecordedUpdate:
    """What a client shared.

    Args:
        tensors: By the names of the model's trainable tensors, of their shapes and types, on the CPU.
        path: The file.
        sha256: Hash of the file.
        decay: Weight decay that was taken out, or ``None``.
    """

    tensors: Mapping[str, Tensor]
    path: str
    sha256: str
    decay: Decay | None = None


def load_update(path: str | Path, target: Target, weight_decay: float | None = None) -> RecordedUpdate:
    """Read a recorded update of a model.

    Args:
        path: ``.npz`` or ``.safetensors``.
        target: The model that the client trained, before the step.
        weight_decay: λ of the client's optimiser, which is taken out; 0 for none, ``None`` to fit it where rows that
            nothing else touched show it.

    Raises:
        UsageError: The path does not exist or is of another format.
        UpdateError: The content does not fit the model.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such update file: {path}", "pass --update FILE.npz or FILE.safetensors")
    found = _read(path)
    parameters = target.parameters
    unknown = [name for name in found if name not in parameters]
    if unknown or not found:
        what = f"{path} has {unknown[0]!r}, which is no trainable tensor" if unknown else f"{path} holds no arrays"
        raise UpdateError(what, f"name the arrays {_some(list(parameters))}")
    tensors = {}
    for name, parameter in parameters.items():
        if name not in found:
            continue
        tensor = found[name]
        if tensor.shape != parameter.shape:
            shape, expected = tuple(tensor.shape), tuple(parameter.shape)
            raise UpdateError(f"{path}: {name} has shape {shape}, expected {expected}", "save it as the model has it")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise UpdateError(f"{path}: {name} holds values that are not finite real numbers", UNIT)
        tensors[name] = tensor.to(parameter.dtype)
    if not any(bool(tensor.any()) for tensor in tensors.values()):
        raise UpdateError(f"{path} is zero in every tensor: there is nothing to attack", UNIT)
    plain, decay = without_decay(tensors, parameters, weight_decay)
    if not any(bool(tensor.any()) for tensor in plain.values()):
        raise UpdateError(f"{path} holds nothing beside weight decay: there is nothing to attack", UNIT)
    return RecordedUpdate(plain, str(path), hash_files([path]), decay)


def _read(path: Path) -> dict[str, Tensor]:
    """Arrays by name."""
    damaged = f"{path} is no readable {path.suffix or 'file'}"
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(str(path)))
        except (SafetensorError, OSError, ValueError) as error:
            raise UpdateError(f"{damaged} ({error})", "save it with safetensors.torch.save_file") from error
    if path.suffix != ".npz":
        raise UsageError(f"--update {path}: expected .npz or .safetensors", "save it with numpy.savez(path, **update)")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise UpdateError(f"{damaged} ({error})", "save it with numpy.savez(path, **update)") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", … ({len(names)} in all)" if len(names) > 3 else "")
