"""An attack of a plug-in, in one file: one sample before a linear layer is the quotient of two gradients."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Generator, Tensor

from leakaudit import Attack, Monitor, NotApplicable, Observation, Reconstruction, Target


@dataclass(frozen=True)
class DivisionSettings:
    """Settings of the attack: gradients of a bias below `smallest` are not divided by."""

    smallest: float = 1e-12


class Division(Attack):
    """Divides the weight's gradient of the first layer's strongest unit by the gradient of its bias."""

    name: ClassVar[str] = "division"
    title: ClassVar[str] = "Weight over bias"
    needs: ClassVar[str] = "one sample, and a linear layer with bias in front"
    reference: ClassVar[str] = "Phong et al. 2017, equation 6"
    cost: ClassVar[int] = 5
    one_gradient: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("images", "waves")
    adapts: ClassVar[tuple[str, ...]] = ("half",)
    presets: ClassVar[dict[str, DivisionSettings]] = dict.fromkeys(("quick", "standard", "paper"), DivisionSettings())

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        if observation.batch_size > 1:
            return NotApplicable(f"{observation.batch_size} samples are behind the update; this attack divides for one")
        if self._layer(observation) is None:
            return NotApplicable("no linear layer with bias takes whole samples, or its gradient is too small")
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        found = self._layer(observation)
        assert found is not None
        weight, bias = found
        unit = int(bias.abs().argmax())
        inputs = (weight[unit] / bias[unit]).reshape(1, *observation.domain.shape)
        labels = observation.labels if observation.labels is not None else bias.new_zeros(1).long()
        return Reconstruction(inputs, labels, match=0.0, exact=True)

    def _layer(self, observation: Observation) -> tuple[Tensor, Tensor] | None:
        """Gradients of weight (units, inputs) and bias (units,) of the first linear layer."""
        inputs = prod(observation.domain.shape)
        for name, weight in observation.update.items():
            bias = observation.update.get(name.removesuffix("weight") + "bias")
            if weight.shape[1:] == (inputs,) and bias is not None and bias.abs().max() > self.settings.smallest:
                return weight, bias
        return None
