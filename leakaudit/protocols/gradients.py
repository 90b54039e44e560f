"""One local gradient of the mean loss, of which every protocol is made, and that of each sample."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from leakaudit.protocols.base import Play
from leakaudit.target.dropout import Masks, injected_masks
from leakaudit.target.target import Target


def gradient(
    target: Target,
    inputs: Tensor,
    labels: Tensor,
    masks: Masks | None = None,
    *,
    create_graph: bool = False,
    parameters: Mapping[str, Tensor] | None = None,
    functional: bool = False,
    errors: Tensor | None = None,
) -> dict[str, Tensor]:
    """One local gradient of the mean loss, of which every protocol is made.

    Args:
        target: The model.
        inputs: (B, C, H, W) in normalised space.
        labels: Class indices (B,) or probabilities (B, K).
        masks: Keep masks of this step by layer.
        create_graph: See :meth:`leakaudit.protocols.base.Protocol.update`, like `parameters` and `functional`.
        parameters: See there; tensors at which the step begins.
        functional: See there.
        errors: ∂ℓ/∂z (B, outputs) of each sample's own loss, in place of labels.
    """
    if masks:
        with injected_masks(target.module, masks):
            return gradient(
                *(target, inputs, labels),
                create_graph=create_graph,
                parameters=parameters,
                functional=functional,
                errors=errors,
            )
    if functional:
        values = target.parameters if parameters is None else dict(parameters)
        return dict(torch.func.grad(lambda p: target.loss(inputs, labels, p, errors))(values))
    return target.gradient(inputs, labels, create_graph=create_graph, parameters=parameters, errors=errors)


def sample_gradients(target: Target, play: Play) -> list[dict[str, Tensor]]:
    """The gradient of every sample's loss in one forward of the whole batch: their mean is :func:`gradient`.

    For a model that takes no single samples, or draws for the batch as a whole; else taking samples one by one is
    cheaper.

    Args:
        target: The model.
        play: Inputs, labels, and the masks of one step.
    """
    with injected_masks(target.module, play.masks_of(0)) if play.masks else nullcontext():
        logits = target.logits(play.inputs)
    values = target.parameters
    found = []
    for i in range(len(logits)):
        loss = target.task.loss(logits[i : i + 1], play.labels[i : i + 1])
        grads = torch.autograd.grad(
            loss, list(values.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found.append(dict(zip(values, grads, strict=True)))
    return found
