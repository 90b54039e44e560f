"""An update in memory, as a training script has it: by name, as a list, or as weights before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMS = "arrays by name, a list in the order of the state dict, or (before, after)"


@dataclass(frozen=True, eq=False)
class Given:
    """Arrays of an update; equal where their content is.

    Args:
        arrays: By name; those of a list are ``arr_0``, ``arr_1``, …
        before: The weights that the client started from, where `arrays` are those after.
    """

    arrays: Mapping[str, Tensor]
    before: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, value: Any) -> Given:
        """Take one of :data:`FORMS`; arrays are copied.

        Raises:
            ValueError: It is none of these.
        """
        if isinstance(value, tuple) and len(value) == 2 and all(_several(item) for item in value):
            return cls(_tensors(value[1]), _tensors(value[0]))
        if not _several(value):
            raise ValueError(f"expected a path, {FORMS}")
        return cls(_tensors(value))

    @cached_property
    def sha256(self) -> str:
        """Of names, types, shapes and numbers."""
        digest = hashlib.sha256()
        for own in (self.before or {}, self.arrays):
            for name, tensor in own.items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"<{len(self.arrays)} arrays>"


def _several(value: Any) -> bool:
    """Whether a value is arrays by name, or a sequence of arrays and not one of numbers."""
    if isinstance(value, Mapping):
        return len(value) > 0
    if isinstance(value, str | bytes | Tensor | np.ndarray) or not isinstance(value, Sequence):
        return False
    return len(value) > 0 and all(hasattr(item, "shape") or hasattr(item, "numpy") or item is None for item in value)


def _tensors(value: Mapping[Any, Any] | Iterable[Any]) -> dict[str, Tensor]:
    named = value.items() if isinstance(value, Mapping) else ((f"arr_{i}", item) for i, item in enumerate(value))
    return {str(name): _tensor(str(name), item) for name, item in named}


def _tensor(name: str, item: Any) -> Tensor:
    if isinstance(item, Tensor):
        return item.detach().cpu().clone()
    try:
        array = np.array(item.numpy() if hasattr(item, "numpy") else item)
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers, but {name} holds {type(item).__name__}") from error
