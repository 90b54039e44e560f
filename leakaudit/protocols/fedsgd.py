"""FedSGD: one gradient of the mean loss over the whole batch (McMahan et al. 2017, arXiv 1602.05629, section 2).

.. math:: g = \\nabla_\\theta \\frac{1}{B} \\sum_{i=1}^{B} \\ell(f_\\theta(x_i), y_i)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from leakaudit.protocols.base import Play, Protocol, Update, belonging
from leakaudit.protocols.gradients import gradient
from leakaudit.target.target import Target


@dataclass(frozen=True)
class FedSGD(Protocol):
    """The client shares one gradient of the mean loss."""

    name: ClassVar[str] = "fedsgd"
    title: ClassVar[str] = "FedSGD: one gradient"

    @property
    def step_sizes(self) -> tuple[int, ...]:
        """One step over the whole batch."""
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
        """The gradient."""
        return gradient(
            *(target, play.inputs, play.labels, play.masks_of(0)),
            create_graph=create_graph,
            parameters=parameters,
            functional=functional,
            errors=play.errors,
        )

    def from_shared(self, shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """The gradient that was sent."""
        return belonging(shared, before)

    def assumption(self, shared: str = "undefended", made: str = "computed") -> str:
        """One gradient, of how many samples."""
        samples = "one sample" if self.batch_size == 1 else f"{self.batch_size} samples"
        return f"FedSGD: the client shares the gradient of {samples}, {shared}, {made} in {self.mode} mode."


def gradient_of(
    target: Target,
    inputs: Tensor,
    labels: Tensor,
    *,
    create_graph: bool = False,
    parameters: Mapping[str, Tensor] | None = None,
) -> Update:
    """The gradient of the mean loss at samples of a reader's own choice, detached unless a graph is asked for.

    Readers of an update experiment with it to learn which tensor shows what, at the model's weights or at others; it
    stands for no client's update.
    """
    protocol = FedSGD(len(inputs), target.mode)
    if parameters is not None:
        parameters = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    found = protocol.update(target, Play(inputs, labels), create_graph=create_graph, parameters=parameters)
    return found if create_graph else {name: tensor.detach() for name, tensor in found.items()}
