r"""Between the two units of an update: of a gradient, which attacks read, and of what the client sends.

A client that trains locally sends weights or their difference, and a filter in front of the network acts on that. With
:math:`\theta_K - \theta_0 = (a - 1)\,\theta_0 - c\,u` (`leakaudit.protocols.fedavg`), an update u in units of a
gradient is the difference divided by -c, the sum of what each step's gradient moves the weights by. A noise of standard
deviation σ on the weights is one of σ/c on u, a norm of C there one of C/c where nothing decays. Where the gradient
itself is sent, both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakaudit.observation import Chained, Channel, Observation
from leakaudit.protocols.base import Protocol

Tensors = Mapping[str, Tensor]
ROUNDINGS = 8
"""Roundings of a part within which a sum of two is zero: there and back are four operations, with a factor of two to
spare; chosen."""


def moves(protocol: Protocol) -> bool:
    """Whether the client sends weights, or a difference of them."""
    return protocol.moved({}, {}) is not None


def reach(protocol: Protocol) -> float:
    """c: how far a unit of the update moves the weights; 1 where the gradient itself is sent."""
    return sum(protocol.step_weights) if moves(protocol) else 1.0


def sent(protocol: Protocol, update: Tensors, before: Tensors) -> dict[str, Tensor]:
    """What a client sends of an update, as a difference of weights; the update itself where that is sent.

    What is left of two terms that cancel, but for their rounding, is zero: a filter's zeros are seen again.
    """
    moved = protocol.moved(update, before)
    if moved is None:
        return dict(update)
    far = reach(protocol)
    return {name: cancelled(tensor, far * update[name]) for name, tensor in moved.items()}


def cancelled(total: Tensor, part: Tensor) -> Tensor:
    """A sum with zeros where it is no more than the rounding of one of its two parts."""
    return total.where(total.abs() > ROUNDINGS * torch.finfo(total.dtype).eps * part.abs(), 0.0)


def read(protocol: Protocol, shared: Tensors, before: Tensors) -> dict[str, Tensor]:
    """The inverse of :func:`sent`."""
    return dict(protocol.learnt(shared, before)) if moves(protocol) else dict(shared)


def in_both_units(protocol: Protocol, level: float, bound: float) -> str:
    """Noise and clipping norm of what is sent, as they are, and in units of a gradient; for the report.

    Args:
        protocol: How the update is made.
        level: Standard deviation of the noise on what is sent.
        bound: Norm that it is clipped to.
    """
    far = reach(protocol)
    return (
        f"standard deviation {level:.3g} on the difference of weights, whose norm is clipped to {bound:g}; in units of "
        f"a gradient, of which it is {far:.3g} times, {level / far:.3g} and {bound / far:.3g}"
    )


@dataclass(frozen=True, eq=False)
class Sent(Channel):
    """A channel that acts on a difference of weights, for gradients.

    Args:
        channel: On the difference.
        reach: c.
        drift: (a − 1) θ₀ by tensor: what decay alone moves; empty where nothing decays.
    """

    channel: Channel
    reach: float
    drift: Tensors

    def __call__(self, gradients: Tensors) -> dict[str, Tensor]:
        """Gradients by name, differentiable."""
        moved = {name: self._drift(name) - self.reach * g for name, g in gradients.items()}
        return {name: (self._drift(name) - t) / self.reach for name, t in self.channel(moved).items()}

    def _drift(self, name: str) -> Tensor | float:
        return self.drift.get(name, 0.0)


def as_sent(observation: Observation, before: Tensors) -> Observation:
    """An observation before any defence is undone further, in the units of what was sent."""
    c = reach(observation.protocol)
    return replace(
        observation,
        update=sent(observation.protocol, observation.update, before),
        channel=None,
        noise=observation.noise * c,
        rounding=_scaled(observation.rounding, c),
    )


def as_read(seen: Observation, asked: Observation, given: Observation, before: Tensors) -> Observation:
    """What a defence made of an observation in the units of what was sent, back in those of a gradient.

    Args:
        seen: From the defence.
        asked: What it was given, from :func:`as_sent`.
        given: What that was made of.
        before: The trainable tensors before the first step, by name.
    """
    protocol = given.protocol
    c = reach(protocol)
    kept = {n: given.update[n] for n, t in seen.update.items() if t is asked.update.get(n)}
    changed = read(protocol, {n: t for n, t in seen.update.items() if n not in kept}, before)
    channel = given.channel
    if seen.channel is not None:
        own = Sent(seen.channel, c, _drift(protocol, given.update, before))
        channel = own if channel is None else Chained(own, channel)
    return replace(
        seen,
        update={n: kept[n] if n in kept else changed[n] for n in seen.update},
        channel=channel,
        noise=seen.noise / c,
        rounding=_scaled(seen.rounding, 1 / c),
    )


def _drift(protocol: Protocol, update: Tensors, before: Tensors) -> dict[str, Tensor]:
    found = sent(protocol, {name: torch.zeros_like(g) for name, g in update.items()}, before)
    return found if any(bool(t.any()) for t in found.values()) else {}


def _scaled(steps: Mapping[str, float] | None, factor: float) -> Mapping[str, float] | None:
    return None if steps is None else {name: step * factor for name, step in steps.items()}
