r"""Labels that are rows of numbers, behind samples that were read: from the error that each sample made.

The gradient is linear in the errors at the outputs, :math:`\delta_i = \partial\ell_i / \partial z_i`:

.. math:: g = \frac1B \sum_{i,k} \delta_{ik} \, \frac{\partial z_{ik}}{\partial\theta}

so with the inputs known the errors follow by least squares, from the whole update or, of one sample, from its error in
the first layer; the labels follow from outputs and errors by the task (`leakaudit.tasks.base.Task.behind`). No loss is
inverted and no class is tried, so the number of labels does not matter.

Fails, by a residual that stays, where an input is wrong or missing, and where outputs have the same derivatives. More
than `MOST_OUTPUTS` errors are not solved for.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from leakaudit.observation import Observation
from leakaudit.target.target import Target

MOST_ENTRIES = 20_000_000
"""Entries of the system of derivatives, at most; tensors next to the output come first; chosen for memory: 160 MB."""

MOST_OUTPUTS = 2048
"""Outputs of all samples together whose errors are solved for, at most; chosen for time: a derivative each."""


def solvable(target: Target, samples: int) -> bool:
    """Whether the errors of so many samples are few enough to be solved for."""
    return samples * target.task.outputs <= MOST_OUTPUTS


def labels_behind(target: Target, observation: Observation, inputs: Tensor) -> Tensor:
    """Labels (B, *label_shape) of a whole batch (B, *shape), from the update.

    Args:
        target: The model, in the mode of the protocol; its task has rows of labels.
        observation: The update of exactly these samples.
        inputs: As they were read.
    """
    parameters = {name: target.parameters[name] for name in observation.update}
    outputs = target.logits(inputs)
    names = _nearest(parameters, outputs.numel())
    rows = _derivatives(outputs.flatten(), [parameters[name] for name in names])
    seen = torch.cat([observation.update[name].flatten() for name in names]).double()
    errors = len(inputs) * _solved(rows, seen).view_as(outputs)
    return target.task.behind(outputs.detach(), errors.to(outputs)).detach()


def label_of(target: Target, bias: str, inputs: Tensor, error: Tensor, read: Tensor) -> Tensor:
    """Label (1, *label_shape) of one sample, from its error in a layer.

    Args:
        target: The model, in the mode of the protocol; its task has rows of labels.
        bias: Of the layer, whose gradient is the error.
        inputs: The sample (1, *shape), or repeated as often as the model needs it.
        error: ∂ℓ/∂bias of the sample alone (m,), where it was read.
        read: Which of the bias's entries those are (M,), booleans.
    """
    outputs = target.logits(inputs)
    rows = _derivatives(outputs.mean(0), [target.parameters[bias]])[:, read.flatten()]
    errors = _solved(rows, error.double())[None]
    return target.task.behind(outputs[:1].detach(), errors.to(outputs)).detach()


def _nearest(parameters: dict[str, Tensor], outputs: int) -> list[str]:
    """Names of the tensors whose derivatives there is room for, those next to the output first, at least one."""
    chosen: list[str] = []
    left = MOST_ENTRIES // outputs
    for name in reversed(parameters):
        left -= parameters[name].numel()
        if left < 0 and chosen:
            break
        chosen.append(name)
    return chosen


def _derivatives(outputs: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """∂output/∂tensors in float64 (n, P) of each of n outputs."""
    wanted = list(tensors)
    rows = []
    for output in outputs:
        found = torch.autograd.grad(output, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([tensor.flatten() for tensor in found]).double())
    return torch.stack(rows)


def _solved(rows: Tensor, seen: Tensor) -> Tensor:
    """Coefficients (n,) of rows (n, P) whose sum is nearest to what was seen (P,), of least norm."""
    solution: Tensor = torch.linalg.lstsq(rows.T.cpu(), seen[:, None].cpu(), driver="gelsd").solution
    return solution[:, 0].to(rows.device)
