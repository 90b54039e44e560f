"""What the filters of all frameworks have in common: their text, the unit that they need, and numpy's random
numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from leakaudit.defences.base import Defence, as_text
from leakaudit.defences.units import moves
from leakaudit.errors import UsageError
from leakaudit.protocols.base import Protocol

Arrays = Mapping[str, NDArray[np.floating]]
SEEDS = 2**32
"""Seeds of numpy's generator, by definition."""


@dataclass(frozen=True, kw_only=True)
class FrameworkFilter(Defence):
    """A filter that acts on weights or their difference."""

    def __str__(self) -> str:
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}({','.join(f'{name}={as_text(value)}' for name, value in changed)})"

    def protocol(self, protocol: Protocol) -> Protocol:
        """Clients as they are.

        Raises:
            UsageError: They share a gradient, which such a filter never sees.
        """
        if not moves(protocol):
            raise UsageError(
                f"--defence {self} acts on differences of weights, and clients share a gradient",
                "say how clients train: --learning-rate, and --local-epochs and the like where they take several steps",
            )
        return protocol


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.floating]]:
    """Tensors as arrays of their own type, copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def tensors_like(arrays: Arrays, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays as tensors on the device and in the type of others."""
    return {name: torch.as_tensor(array).to(tensors[name]) for name, array in arrays.items()}


def random_state(generator: Generator) -> np.random.RandomState:
    """The generator that frameworks draw from, ``numpy.random``, seeded by a generator of torch."""
    return np.random.RandomState(int(torch.randint(SEEDS, (1,), generator=generator)))
