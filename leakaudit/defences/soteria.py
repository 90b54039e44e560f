r"""Soteria: hide the features of the last hidden layer that say most about the input (Sun et al. 2021).

For the features r before the last fully connected layer, the entries with the smallest
:math:`|r_i| / \|\partial r_i / \partial x\|` are zeroed, and with them their columns of that layer's gradient. Nothing
else of the update changes, so an attacker who leaves the layer out sees the undefended update of all the others
(Balunović et al. 2022, arXiv 2111.04706).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update, through
from leakaudit.defences.survivors import Support
from leakaudit.errors import ModelError
from leakaudit.observation import Observation
from leakaudit.target.splice import last_linear, layer_input
from leakaudit.target.target import Target

CHUNK = 64
"""Features whose sensitivities are computed at a time; chosen for memory."""


@dataclass(frozen=True, kw_only=True)
class Soteria(Defence):
    """Zero the columns of the last layer's gradient that belong to the most telling features.

    Args:
        soteria: Fraction of the features, in 0..1; chosen, and what `benchmarks/results/defences.md` was measured with
            (2 images).
    """

    soteria: float = 0.5

    name: ClassVar[str] = "soteria"
    title: ClassVar[str] = "Soteria"
    adaptive: ClassVar[str] = "leaves the columns that the defence touched out of the comparison"
    reference: ClassVar[str] = "Sun et al., Soteria, CVPR 2021, arXiv 2012.06043"
    order: ClassVar[int] = 50

    def __post_init__(self) -> None:
        if not 0 < self.soteria < 1:
            raise ValueError(f"soteria is {self.soteria}, expected between 0 and 1")

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Zero the columns; a sample's features count by their mean over the batch.

        Raises:
            ModelError: The model has no fully connected layer, or its inputs are token ids.
        """
        if not step.inputs.is_floating_point():
            raise ModelError(
                f"{step.target.name} takes token ids: Soteria asks how features change with the input, ids do not vary",
                "try clip and noise, or more samples behind an update",
            )
        layer = last_linear(step.target)
        ratio = torch.stack([_ratio(step, i) for i in range(len(step.inputs))]).mean(0)
        hidden = ratio.argsort()[: round(self.soteria * len(ratio))]
        name = str(layer.weight)
        if name not in update:
            return update
        shared = update[name].clone()
        columns = shared.T if layer.settings.get("transposed") else shared
        columns[:, hidden.to(shared.device)] = 0.0
        return {**update, name: shared}

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """Compare the last layer's weight where it is not zero, and everything else whole."""
        name = str(last_linear(target).weight)
        touched = {n: g for n, g in observation.update.items() if n == name}
        return target, through(observation, Support.of(touched))

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Half of the features."""
        return ("soteria=0.5",)


def _ratio(step: ClientStep, sample: int) -> Tensor:
    """|r_i| / ‖∂r_i/∂x‖ of one sample's features (features,)."""
    layer = last_linear(step.target)
    inputs = step.inputs[sample : sample + 1].detach().requires_grad_(True)
    features = layer_input(step.target, layer, inputs)[0]
    basis = torch.eye(len(features), dtype=features.dtype, device=features.device)
    norms = []
    for part in torch.split(basis, CHUNK):
        (rows,) = torch.autograd.grad(features, [inputs], part, retain_graph=True, is_grads_batched=True)
        norms.append(rows.flatten(1).norm(dim=1))
    return features.detach().abs() / torch.cat(norms).clamp_min(torch.finfo(features.dtype).tiny)
