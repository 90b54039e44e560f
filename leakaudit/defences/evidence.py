"""What a defence can say about itself: properties of its updates, a privacy guarantee, a bound on the error.

Values only, light to import; `leakaudit.defences.base` has the methods that return them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Check:
    """One property of a shared update.

    Args:
        what: The property.
        expected: By the claim.
        measured: On the update.
        holds: Whether they agree.
    """

    what: str
    expected: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Guarantee:
    """What an accounted mechanism guarantees.

    Args:
        epsilon: ε at δ for the whole training.
        delta: δ.
        multiplier: Noise multiplier z.
        rate: Sampling rate.
        steps: Number of steps.
        prior: κ, the probability of guessing a sample without any update.
        reconstruction: γ, the largest probability of reconstructing it, with all updates of the training.
        one_step: The same with a single update that the sample took part in.
        epsilon_one_step: ε of such an update, or ``None`` where the mechanism states none.
        epsilon_renyi: ε for the whole training by Rényi accounting, or ``None``.
        reading: How the settings were read: units of the noise, number of samples that it was divided by. May be empty.
        unit: Whose presence it hides: a ``sample``, or a ``client`` with all its samples.
        update_steps: Mechanisms that one update composes for whoever took part in it.
        other: The guarantee under the other unit that the noise may have been meant in, with its own reading.
    """

    epsilon: float
    delta: float
    multiplier: float
    rate: float
    steps: int
    prior: float
    reconstruction: float
    one_step: float
    epsilon_one_step: float | None = None
    epsilon_renyi: float | None = None
    reading: str = ""
    other: Guarantee | None = None
    unit: Literal["sample", "client"] = "sample"
    update_steps: int = 1


@dataclass(frozen=True)
class ErrorBound:
    """The least error that one update leaves to any unbiased attacker.

    Args:
        mse: Per entry of the input, in squared units of the normalised input, or ``None``.
        reason: Why there is none, or "".
    """

    mse: float | None
    reason: str = ""


def flat(update: Tensors, names: Iterable[str]) -> Tensor:
    """Some tensors of an update as one vector (N,) in float64."""
    return torch.cat([update[name].double().flatten() for name in names])
