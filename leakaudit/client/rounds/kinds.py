"""Whether numbers are weights, a difference of weights, or a gradient; told from the numbers where nobody says.

Weights point where the model's own weights point. A difference points against the gradient of the samples behind it:
what the optimizer subtracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.evidence import flat
from leakaudit.errors import UpdateError
from leakaudit.protocols.base import Protocol
from leakaudit.target.target import Target

Kind = Literal["weights", "delta", "gradient"]
ALIKE = 0.5
"""Cosine with the model's weights from which on numbers are weights (NVFlare's issue 3959, where they were taken for a
difference); chosen between the rounds that frameworks recorded, .999, one step at a high rate, .9, and gradients and
differences, less than .1."""
SHORTEST = 0.1
"""Length over that of the model's weights below which numbers are no weights whatever their direction: an update of
weight decay alone is 5e-4 of them; chosen, as training does not shrink a model to a tenth."""
OPPOSED = -0.1
"""Cosine with the gradient below which numbers point against it; chosen: under other dropout masks it is still .29 for
a gradient, so −.29 for a difference, and chance gives 1/√d."""


def are_weights(shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the model's weights, hardly moved: along them and about as long."""
    names = [name for name in shared if name in before]
    long = float(flat(shared, names).norm()) >= SHORTEST * float(flat(before, names).norm())
    return long and cosine(shared, before) >= ALIKE


def refuse_mistaken(
    shared: Mapping[str, Tensor], kind: Kind, target: Target, samples: Batch, protocol: Protocol, source: str
) -> None:
    """Refuse an update that is something else than its protocol shares; told from the numbers.

    Args:
        shared: As it was read.
        kind: As far as it is known from the model alone.
        target: The model.
        samples: All that are behind the update.
        protocol: What clients are said to do.
        source: The file, for errors.

    Raises:
        UpdateError: It is.
    """
    local = protocol.moved({}, {}) is not None
    if kind == "weights" and not local:
        raise UpdateError(
            f"{source} holds weights after local training, not a gradient",
            "say how the client trained: --learning-rate, and --local-epochs and the like where it took several steps",
        )
    if kind == "weights":
        return
    made = observe(target, samples, protocol, target.domain).update
    alike = cosine(shared, made)
    if not local and alike < OPPOSED:
        raise UpdateError(
            f"{source} points against the gradient of the samples (cosine {alike:.2f}): a difference of weights",
            "say how the client trained: --learning-rate, and --local-epochs and the like where it took several steps",
        )
    if local and alike > -OPPOSED:
        raise UpdateError(
            f"{source} points along the gradient of the samples (cosine {alike:.2f}): no difference of weights",
            "pass weights after minus weights before, or leave out --learning-rate where it is a gradient",
        )


def cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Over the tensors that both have."""
    names = [name for name in one if name in other]
    a, b = flat(one, names), flat(other, names)
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
