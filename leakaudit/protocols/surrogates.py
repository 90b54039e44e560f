r"""What an attacker puts in the place of K local steps: cheaper, or looser, than replaying them.

`Between` is one gradient of all the samples at weights on a path from those before to those after the local training,
:math:`w = (1-\alpha)\,\theta_0 + \alpha\,\theta_K` (SME, Zhu et al. 2023, arXiv 2306.00127); α = 0 is the gradient
before the first step, the naive reading. A bent path leaves θ_0 as the client does, down the gradient of the guess, and
its update is a mean of that gradient and one on the path: two gradients an iteration, and three numbers to be learnt.
`PerEpoch` replays the steps with samples of its own in every epoch, so that
the unknown order of the samples does not matter (DLFA, Dimitrov et al. 2022, arXiv 2206.12395).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.protocols.base import Play, Update
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target

ALPHA = "alpha"
"""Name of the unknown place on the path, a logit (1,)."""
LENGTH = "length"
"""Name of the unknown length of a bent path's first leg, the logarithm of its ratio to the whole way (1,)."""
FIRST = "first"
"""Name of the unknown share of the first gradient in the update of a bent path, a logit (1,)."""
BENT = {LENGTH: -0.7, FIRST: -1.5}
"""Where a bent path begins; chosen: the middle of the way, and a first step of five."""


SMALLEST = 1e-30
"""Least norm that is divided by; chosen, above the 1e-38 where float32's precision ends."""


def norm(tensors: Mapping[str, Tensor]) -> Tensor:
    """Of all entries of all tensors, at least `SMALLEST`; a scalar."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).square().sum().sqrt().clamp_min(SMALLEST)


Slope = Callable[[Mapping[str, Tensor]], Update]
"""From weights to the gradient of all samples of a guess there."""


@dataclass(frozen=True, eq=False)
class OnTheWay(FedSGD):
    """Gradients of all samples on a way from the weights before to those after the local steps.

    Args:
        way: θ_K − θ_0 by tensor.
    """

    way: Mapping[str, Tensor] = field(default_factory=dict)

    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        """What the gradients on the way add up to."""
        gradient = super().update

        def slope(weights: Mapping[str, Tensor]) -> Update:
            return gradient(target, play, create_graph=create_graph, parameters=weights, functional=functional)

        return self._along(target.parameters if parameters is None else dict(parameters), play.unknowns, slope)

    @abstractmethod
    def _along(self, before: Mapping[str, Tensor], unknowns: Mapping[str, Tensor], slope: Slope) -> Update:
        """The update, from the weights before and the unknowns of the way."""

    def _scale(self, gradient: Update) -> Tensor:
        """Length of the whole way relative to that of a gradient, a scalar."""
        return norm(self.way) / norm({name: gradient[name] for name in self.way})


@dataclass(frozen=True, eq=False)
class Between(OnTheWay):
    """One gradient of all samples, at weights between those before and those after the local steps.

    Args:
        way: θ_K − θ_0 by tensor.
        fixed: α where it is not an unknown of the play.
    """

    fixed: float | None = None

    name: ClassVar[str] = "between"
    title: ClassVar[str] = "One gradient between the weights before and after"

    def _along(self, before: Mapping[str, Tensor], unknowns: Mapping[str, Tensor], slope: Slope) -> Update:
        """The gradient there; α is the sigmoid of the play's logit."""
        if self.fixed is not None:
            return slope(self._line(before, self.fixed))
        alpha = unknowns[ALPHA].sigmoid()
        if LENGTH not in unknowns:
            return slope(self._line(before, alpha))
        first = slope(before)
        leg = unknowns[LENGTH].exp() * self._scale(first)
        # θ_0 (1−α)² + 2α(1−α) c + α² θ_K with c = θ_0 − leg · g(θ_0): it leaves θ_0 down the gradient
        there = {
            name: tensor + alpha**2 * self.way[name] - 2 * alpha * (1 - alpha) * leg * first[name]
            if name in self.way
            else tensor
            for name, tensor in before.items()
        }
        then = slope(there)
        share = unknowns[FIRST].sigmoid()
        return {name: share * first[name] + (1 - share) * then[name] for name in before}

    def _line(self, before: Mapping[str, Tensor], alpha: Tensor | float) -> dict[str, Tensor]:
        """Weights on the straight way."""
        if isinstance(alpha, float) and alpha == 0:
            return dict(before)
        return {n: tensor + alpha * self.way[n] if n in self.way else tensor for n, tensor in before.items()}


@dataclass(frozen=True)
class PerEpoch(FedAvg):
    """The local steps with samples of their own in each epoch; the batch is that of all epochs, one after another."""

    name: ClassVar[str] = "per-epoch"

    @classmethod
    def of(cls, client: FedAvg) -> PerEpoch:
        """For a client."""
        facts = {each.name: getattr(client, each.name) for each in fields(client)}
        return cls(**{**facts, "batch_size": client.batch_size * client.local_epochs})

    @property
    def samples(self) -> int:
        """Of one epoch."""
        return self.batch_size // self.local_epochs

    def order(self, generator: Generator, samples: int) -> Tensor | None:
        """None that is drawn: every epoch visits its own samples as they stand."""
        return None

    def visits(self, play: Play) -> Iterator[Tensor]:
        """Each epoch's own samples."""
        own = torch.arange(len(play.inputs), device=play.inputs.device).reshape(self.local_epochs, -1)
        return super().visits(replace(play, order=own))
