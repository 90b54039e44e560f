"""Refusing an update that is something else than its protocol shares, told from the numbers.

A difference of weights points against the gradient of the samples behind it: what the optimizer subtracts.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.client.rounds.kinds import Kind, cosine
from leakaudit.errors import UpdateError
from leakaudit.protocols.base import Protocol
from leakaudit.target.target import Target

OPPOSED = -0.1
"""Cosine with the gradient below which numbers point against it; chosen: under other dropout masks it is still .29 for
a gradient, so −.29 for a difference, and chance gives 1/√d."""


def refuse_mistaken(
    shared: Mapping[str, Tensor], kind: Kind, target: Target, samples: Batch, protocol: Protocol, source: str
) -> None:
    """Refuse an update that is something else than its protocol shares; told from the numbers.

    Args:
        shared: As it was read.
        kind: As far as it is known from the model alone.
        target: The model.
        samples: All that are behind the update; where nobody has them, weights alone can be told.
        protocol: What clients are said to do.
        source: The file, for errors.

    Raises:
        UpdateError: It is.
    """
    local = protocol.moved({}, {}) is not None
    if kind != "gradient" and not local:
        what = "weights" if kind == "weights" else "a difference of weights"
        raise UpdateError(
            f"{source} holds {what} after local training, not a gradient",
            "say how the client trained: --learning-rate, and --local-epochs and the like where it took several steps",
        )
    if kind == "weights":
        return
    if not samples.known:
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
