"""Whether numbers are weights, a difference of weights, or a gradient; told from the numbers where nobody says.

Weights point where the model's own weights point. A difference points against the gradient of the samples behind it:
what the optimizer subtracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from leakaudit.defences.evidence import flat

Kind = Literal["weights", "delta", "gradient"]
ALIKE = 0.99
"""Cosine with the model's weights from which on numbers are weights (NVFlare's issue 3959, where they were taken for a
difference); measured: the rounds that frameworks recorded have .999, gradients and differences less than .1."""
OPPOSED = -0.1
"""Cosine with the gradient below which numbers point against it; chosen: under other dropout masks it is still .29 for
a gradient, so −.29 for a difference, and chance gives 1/√d."""


def are_weights(shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the model's weights, hardly moved."""
    return cosine(shared, before) >= ALIKE


def points_against(shared: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> bool:
    """Whether tensors point where a step of an optimizer goes."""
    return cosine(shared, gradient) < OPPOSED


def cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Over the tensors that both have."""
    names = [name for name in one if name in other]
    a, b = flat(one, names), flat(other, names)
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
