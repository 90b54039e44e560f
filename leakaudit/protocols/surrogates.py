r"""What an attacker puts in the place of K local steps: cheaper, or looser, than replaying them.

`Between` is one gradient of all the samples at weights on a path from those before to those after the local training,
:math:`w = (1-\alpha)\,\theta_0 + \alpha\,\theta_K` (SME, Zhu et al. 2023, arXiv 2306.00127); α = 0 is the gradient
before the first step, the naive reading. `PerEpoch` replays the steps with samples of its own in every epoch, so that
the unknown order of the samples does not matter (DLFA, Dimitrov et al. 2022, arXiv 2206.12395).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from leakaudit.protocols.base import Play, Protocol, Update, belonging, gradient
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target.target import Target

ALPHA = "alpha"
"""Name of the unknown place on the path, a logit (1,)."""
BEND = "bend:"
"""Before a tensor's name: the control point of a bent path, off the middle, in units of `BEND_UNIT`."""
BEND_UNIT = 0.1
"""Of the root mean square of the way that the tensor went, so that Adam's steps suit every tensor; chosen."""


@dataclass(frozen=True)
class _Surrogate(Protocol):
    """Stands for another protocol on the attacker's side only."""

    def from_shared(self, shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """What was sent, unchanged: the attacker has it in the update's units already."""
        return belonging(shared, before)

    def assumption(self, shared: str = "undefended", made: str = "computed") -> str:
        """What the attacker takes the update to be."""
        return f"{self.title}, {shared}, {made} in {self.mode} mode."


@dataclass(frozen=True, eq=False)
class Between(_Surrogate):
    """One gradient of all samples, at weights between those before and those after the local steps.

    Args:
        way: θ_K − θ_0 by tensor.
        fixed: α where it is not an unknown of the play.
    """

    way: Mapping[str, Tensor] = field(default_factory=dict)
    fixed: float | None = None

    name: ClassVar[str] = "between"
    title: ClassVar[str] = "One gradient between the weights before and after"

    @property
    def step_sizes(self) -> tuple[int, ...]:
        """One."""
        return (self.batch_size,)

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
        return gradient(
            *(target, play.inputs, play.labels, play.masks_of(0)),
            create_graph=create_graph,
            parameters=there,
            functional=functional,
        )

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
class PerEpoch(_Surrogate):
    """The local steps with samples of their own in each epoch; the batch is that of all epochs, one after another.

    Args:
        inner: What the client does.
    """

    inner: FedAvg = field(default_factory=lambda: FedAvg(1))

    name: ClassVar[str] = "per-epoch"
    title: ClassVar[str] = "Local steps with samples of their own in each epoch"

    @classmethod
    def of(cls, inner: FedAvg) -> PerEpoch:
        """For a client."""
        return cls(inner.batch_size * inner.local_epochs, inner.mode, inner.shared_statistics, inner=inner)

    @property
    def step_sizes(self) -> tuple[int, ...]:
        """Those of the client."""
        return self.inner.step_sizes

    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        """The update of the client that visits each epoch's own samples as they stand."""
        epochs = self.inner.local_epochs
        visits = torch.arange(len(play.inputs), device=play.inputs.device).reshape(epochs, -1)
        return self.inner.update(
            *(target, replace(play, order=visits)),
            create_graph=create_graph,
            parameters=parameters,
            functional=functional,
        )
