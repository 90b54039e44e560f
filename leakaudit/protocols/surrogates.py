r"""What an attacker puts in the place of K local steps: cheaper, or looser, than replaying them.

`Between` is one gradient of all the samples at weights on a path from those before to those after the local training,
:math:`w = (1-\alpha)\,\theta_0 + \alpha\,\theta_K` (SME, Zhu et al. 2023, arXiv 2306.00127); α = 0 is the gradient
before the first step, the naive reading. `PerEpoch` replays the steps with samples of its own in every epoch, so that
the unknown order of the samples does not matter (DLFA, Dimitrov et al. 2022, arXiv 2206.12395).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
BEND = "bend:"
"""Before a tensor's name: the control point of a bent path, off the middle, in units of `BEND_UNIT`."""
BEND_UNIT = 0.1
"""Of the root mean square of the way that the tensor went, so that Adam's steps suit every tensor; chosen."""


@dataclass(frozen=True, eq=False)
class Between(FedSGD):
    """One gradient of all samples, at weights between those before and those after the local steps.

    Args:
        way: θ_K − θ_0 by tensor.
        fixed: α where it is not an unknown of the play.
    """

    way: Mapping[str, Tensor] = field(default_factory=dict)
    fixed: float | None = None

    name: ClassVar[str] = "between"
    title: ClassVar[str] = "One gradient between the weights before and after"

    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        """The gradient there; α is the sigmoid of the play's logit."""
        before = target.parameters if parameters is None else dict(parameters)
        alpha: Tensor | float = play.unknowns[ALPHA].sigmoid() if self.fixed is None else self.fixed
        there = before if self.fixed == 0 else {n: t + self._along(n, alpha, play) for n, t in before.items()}
        return super().update(target, play, create_graph=create_graph, parameters=there, functional=functional)

    def _along(self, name: str, alpha: Tensor | float, play: Play) -> Tensor | float:
        """From the weights before to the place on the path: a line, or a quadratic Bézier curve."""
        if name not in self.way:
            return 0.0
        line = alpha * self.way[name]
        if BEND + name not in play.unknowns:
            return line
        # θ_0 (1−α)² + 2α(1−α) c + α² θ_K with the control point c = (θ_0 + θ_K)/2 + bend: a line where the bend is 0
        unit = BEND_UNIT * self.way[name].square().mean().sqrt()
        return line + 2 * alpha * (1 - alpha) * unit * play.unknowns[BEND + name]


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
