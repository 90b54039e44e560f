r"""What DP-SGD inside a client's local steps guarantees, and how its noise reaches what is sent.

A sample is in one step of each pass over the client's data, so that an update of E passes is E Gaussian mechanisms for
it, whatever the number of steps: those of one pass are of disjoint samples. Where steps are drawn by Poisson sampling
at a rate, an update of K steps is K subsampled mechanisms. Neighbours are two trainings of the same steps, in one of
which a sample has no part.

Of the noise :math:`\sigma_k` of every step, :math:`\sqrt{\sum_k c_k^2 \sigma_k^2}` is left on the difference of
weights, with c as in `leakaudit.protocols.fedavg`; what it does to the gradients of later steps is left out.
"""

from __future__ import annotations

import math
from dataclasses import replace

from leakaudit.defences.evidence import Guarantee
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.private import StepPrivacy


def of_update(protocol: Protocol, rate: float) -> int:
    """Mechanisms that one update is for a sample.

    Args:
        protocol: How the update is made.
        rate: Of Poisson sampling; 1 where every pass visits every sample.
    """
    return protocol.steps if rate < 1 else protocol.passes


def multiplier(privacy: StepPrivacy, protocol: Protocol) -> float:
    """z, the smallest of all steps."""
    return min(privacy.level(n) * privacy.divisor(n) / privacy.clip for n in protocol.step_sizes)


def level(privacy: StepPrivacy, protocol: Protocol) -> float:
    """Standard deviation on the difference of weights; 0 for optimizers that are not linear, where nobody knows it."""
    if not protocol.linear:
        return 0.0
    pairs = zip(protocol.step_weights, protocol.step_sizes, strict=True)
    return math.hypot(*(weight * privacy.level(size) for weight, size in pairs))


def guarantee(
    privacy: StepPrivacy, protocol: Protocol, prior: float, *, rate: float, whole: int, delta: float
) -> Guarantee:
    """The guarantee of a sample.

    Args:
        privacy: What every step does, with noise.
        protocol: How the update is made.
        prior: κ in 0..1.
        rate: Sampling rate.
        whole: Steps of the training, as many as an update has at least.
        delta: δ.
    """
    from leakaudit.defences import accounting

    own, z = of_update(protocol, rate), multiplier(privacy, protocol)
    one = accounting.gaussian(z, rate, own, delta, prior)
    found = accounting.gaussian(z, rate, max(whole, own), delta, prior)
    return replace(
        found,
        one_step=one.reconstruction,
        epsilon_one_step=one.epsilon,
        update_steps=own,
        reading=_reading(privacy, protocol),
    )


def _reading(privacy: StepPrivacy, protocol: Protocol) -> str:
    """The noise of a step, and what it comes to on the difference of weights."""
    drawn, moved = max(protocol.step_sizes), level(privacy, protocol)
    sigma, divisor = privacy.level(drawn), privacy.divisor(drawn)
    told = (
        f"in every local step standard deviation {sigma:.3g} on the mean gradient = {sigma * divisor:.3g} on the sum, "
        f"divided by {divisor}, each gradient clipped to {privacy.clip:g}; an update is of {protocol.steps} steps in "
        f"{protocol.passes} passes"
    )
    return f"{told}, and their noise comes to about {moved:.3g} on the difference of weights" if moved else told
