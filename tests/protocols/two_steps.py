"""A toy protocol of two local steps, each over half of the samples in the order of their visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.protocols.base import Play, Protocol, Update, belonging
from leakaudit.protocols.gradients import gradient
from leakaudit.target.target import Target


@dataclass(frozen=True)
class TwoSteps(Protocol):
    """Plain SGD with local weights; the client sends its weights. One sample is visited twice."""

    rate: float = 0.1

    name: ClassVar[str] = "two-steps"
    title: ClassVar[str] = "two local steps"

    @property
    def step_sizes(self) -> tuple[int, ...]:
        return (1, 1) if self.batch_size == 1 else (-(-self.batch_size // 2), self.batch_size // 2)

    def order(self, generator: Generator, samples: int) -> Tensor:
        return torch.randperm(samples, generator=generator)[None]

    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        count = len(play.inputs)
        order = torch.arange(count) if play.order is None else play.order[0]
        visits = torch.tensor_split(order.repeat(2 if count == 1 else 1), 2)
        before = target.parameters if parameters is None else dict(parameters)
        now = before
        for step, chosen in enumerate(visits):
            found = gradient(
                *(target, play.inputs[chosen], play.labels[chosen], play.masks_of(step)),
                create_graph=create_graph,
                parameters=now,
                functional=functional,
            )
            now = {name: tensor - self.rate * found[name] for name, tensor in now.items()}
        made = {name: (tensor - now[name]) / (2 * self.rate) for name, tensor in before.items()}
        return made if create_graph or functional else {name: tensor.detach() for name, tensor in made.items()}

    def from_shared(self, shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        after = belonging(shared, before)
        return {name: (before[name].detach() - tensor) / (2 * self.rate) for name, tensor in after.items()}

    def assumption(self, shared: str = "undefended", made: str = "computed") -> str:
        return f"Two steps of SGD at rate {self.rate:g}, {shared}, {made} in {self.mode} mode."

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "rate": self.rate}
