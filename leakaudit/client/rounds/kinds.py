"""Whether numbers are weights after a training, told from the numbers where nobody says.

Weights point where the model's own weights point, and are of their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from leakaudit.defences.evidence import flat

Kind = Literal["weights", "delta", "gradient"]
ALIKE = 0.5
"""Cosine with the model's weights from which on numbers are weights (NVFlare's issue 3959, where they were taken for a
difference); chosen between the rounds that frameworks recorded, .999, one step at a high rate, .9, and gradients and
differences, less than .1."""
SIZES = 3.0
"""Factor within which the norm of weights stays in one round; chosen: what weight decay alone adds is a hundredth."""


def are_weights(shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the model's weights, hardly moved: of their direction and of their size."""
    if cosine(shared, before) < ALIKE:
        return False
    names = [name for name in shared if name in before]
    ratio = float(flat(shared, names).norm() / flat(before, names).norm().clamp_min(1e-300))
    return 1 / SIZES <= ratio <= SIZES


def cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Over the tensors that both have."""
    names = [name for name in one if name in other]
    a, b = flat(one, names), flat(other, names)
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
