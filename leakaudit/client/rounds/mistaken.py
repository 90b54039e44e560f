"""Refusing an update that is something else than its protocol shares, told from the numbers.

A difference of weights points against the gradient of the samples behind it: what the optimizer subtracts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.client.rounds.kinds import Kind, cosine
from leakaudit.errors import UpdateError
from leakaudit.protocols.base import Protocol
from leakaudit.target.target import Target

EVEN, MOST = 0.05, 0.8
"""Relative difference within which amounts are one, and the share of entries that must agree; chosen: of a Gaussian
gradient 5 % of the entries are that near to the median, of a step of Adam all but those with |g| below 1e-7."""
FEWEST = 100
"""Entries that moved, below which chance may make them agree; chosen."""
HOW = "say how the client trained: --learning-rate, and --local-epochs and the like where it took several steps"
OPPOSED = -0.1
"""Cosine with the gradient below which numbers point against it; chosen: under other dropout masks it is still .29 for
a gradient, so −.29 for a difference, and chance gives 1/√d."""


def refuse_mistaken(
    shared: Mapping[str, Tensor],
    kind: Kind,
    target: Target,
    samples: Batch,
    protocol: Protocol,
    source: str,
    *,
    signs: bool = False,
) -> None:
    """Refuse an update that is something else than its protocol shares; told from the numbers.

    Args:
        shared: As it was read.
        kind: As far as it is known from the model alone.
        target: The model.
        samples: All that are behind the update; where nobody has them, weights alone can be told.
        protocol: What clients are said to do.
        source: The file, for errors.
        signs: Whether clients are said to send signs.

    Raises:
        UpdateError: It is.
    """
    local = protocol.moved({}, {}) is not None
    if kind != "gradient" and not local:
        what = "weights" if kind == "weights" else "a difference of weights"
        raise UpdateError(
            f"{source} holds {what} after local training, not a gradient",
            f"{HOW}; what nobody knows with --unknown",
        )
    if kind == "gradient" and local:
        raise UpdateError(
            f"{source} is a gradient, and clients are said to train locally",
            "leave out --learning-rate and what else says how they train",
        )
    changes = _changes(shared, kind, target)
    if local and protocol.linear and not signs and even(changes):
        raise UpdateError(
            f"{source} moves nearly every entry by one amount: signs alone, as after the first step of Adam",
            "say how the client trained: --optimizer adam (or --defence sign, if it sends signs)",
        )
    if kind == "weights" or not samples.known:
        return
    made = observe(target, samples, protocol, target.domain).update
    alike = cosine(shared, made)
    if not local and alike < OPPOSED:
        raise UpdateError(
            f"{source} points against the gradient of the samples (cosine {alike:.2f}): a difference of weights",
            f"{HOW}; what nobody knows with --unknown",
        )
    if local and alike > -OPPOSED:
        raise UpdateError(
            f"{source} points along the gradient of the samples (cosine {alike:.2f}): no difference of weights",
            "pass weights after minus weights before, or leave out --learning-rate where it is a gradient",
        )


def even(changes: Mapping[str, Tensor]) -> bool:
    r"""Whether nearly all entries that moved did so by the same amount: their signs are all that is left.

    The first step of Adam is :math:`\eta\, g / (|g| + \epsilon)`.
    """
    sizes = torch.cat([change.detach().abs().flatten().cpu() for change in changes.values()])
    sizes = sizes[sizes > 0]
    if len(sizes) < FEWEST:
        return False
    middle = sizes.median()
    return bool(((sizes - middle).abs() <= EVEN * middle).float().mean() >= MOST)


def _changes(shared: Mapping[str, Tensor], kind: Kind, target: Target) -> dict[str, Tensor]:
    """Weights after minus weights before."""
    if kind != "weights":
        return dict(shared)
    own = target.parameters
    return {name: tensor - own[name].detach().to(tensor) for name, tensor in shared.items()}
