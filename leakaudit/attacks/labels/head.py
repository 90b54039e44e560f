"""The last linear layer of a model, found by what it does, and what its update says of the mean error at the outputs.

With logits ``z = W h + b``, row k of the weight and entry k of the bias act on logit k alone. The gradient of the bias
is the mean error at the logits, whatever the loss. Fails without a linear last layer, and of one head of several where
another head uses that layer too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from leakaudit.attacks.reading.first_layer import token_table, watch
from leakaudit.domains.base import Domain
from leakaudit.observation import Observation
from leakaudit.target.parts import only
from leakaudit.target.target import Target

PROBE_PIXELS = 400_000
"""Values of all probe images together, between 32 and 192 images; chosen: 130 images of CIFAR-10's size."""


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer: names of its tensors, and what it does on probe images.

    Args:
        weight: Name of the weight, (K, features) or, when `transposed`, (features, K).
        bias: Name of the bias (K,).
        transposed: Axis order of the weight.
        feature: Mean input of the layer over the probe (features,), or ``None`` without a weight.
        prediction: Mean predicted probabilities over the probe (K,).
        logits: Of the probe images (N, K), or of each of their places.
        outputs: The same as the model returns it (N, outputs).
        pool: Inputs of the layer for the probe images (N, features), or ``None`` where the logits are not simply its
            output.
    """

    weight: str | None
    bias: str | None
    transposed: bool
    feature: Tensor | None
    prediction: Tensor
    logits: Tensor
    outputs: Tensor
    pool: Tensor | None = None

    def rows(self, tensors: dict[str, Tensor]) -> Tensor:
        """The weight, or its gradient, as (K, features)."""
        tensor = tensors[str(self.weight)]
        return tensor.T if self.transposed else tensor.reshape(self.logits.shape[1], -1)


def probe_inputs(target: Target, domain: Domain, count: int, generator: Generator) -> Tensor:
    """At least `count` inputs (B, *shape) like real ones; row numbers where the model looks them up in a table."""
    if target.batch_sizes is not None:
        size = max(target.batch_sizes)
        count = math.ceil(count / size) * size
    table = token_table(target)
    if table is None or table == target.domain.table:
        return domain.look_alikes(count, generator)
    tensors = {**dict(target.module.named_buffers()), **dict(target.module.named_parameters())}
    return torch.randint(len(tensors[table]), (count, *domain.shape), generator=generator).float()


def find_head(target: Target, observation: Observation, generator: Generator) -> Head:
    """Find the last linear layer by what it does: row k of its weight and entry k of its bias act on logit k alone."""
    parameters = target.parameters
    reference = next(iter(parameters.values()))
    size = math.prod(observation.domain.shape)
    single = observation.batch_size == 1 or bool(target.task.places)
    count = 8 if single else max(32, min(192, PROBE_PIXELS // size))
    images = probe_inputs(target, observation.domain, count, generator).to(reference.device, reference.dtype)
    chunk = max(target.batch_sizes) if target.batch_sizes is not None else 32
    with torch.no_grad():
        all_logits = torch.cat([target.logits(part) for part in torch.split(images, chunk)])
    by_class = target.task.by_class
    outputs = by_class(all_logits[:1]).shape[1]
    names = [name for name, tensor in parameters.items() if _as_rows(tensor, outputs) is not None]
    with only(parameters, names) as candidates:  # without the graph of what is in front of them
        logits = by_class(target.logits(images[:chunk]))
        gradients = _gradients(logits[:, 0].sum(), candidates)
        elsewhere = _elsewhere(target, images[:chunk], names)
    weight = bias = feature = None
    transposed = False
    for name, tensor, gradient in zip(names, candidates, gradients, strict=True):
        rows = _as_rows(gradient.detach(), logits.shape[1])
        if rows is None or not bool(rows[0].any()) or bool(rows[1:].any()) or name in elsewhere:
            continue
        if rows.shape[1] == 1:
            bias = name
        else:
            weight, feature = name, rows[0] / len(logits)
            transposed = tensor.shape[0] != logits.shape[1]
    rows = by_class(all_logits)
    head = Head(weight, bias, transposed, feature, probabilities(rows).mean(0), rows, all_logits)
    return head if single or target.binary else replace(head, pool=_pool(target, head, images, chunk))


def _gradients(value: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of a number, with respect to each tensor; zeros where it does not depend on it."""
    if not tensors or not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in tensors]
    return torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)


def _elsewhere(target: Target, images: Tensor, names: Sequence[str]) -> set[str]:
    """Of these tensors, those that other heads of a target use too: their gradient is not of this one alone."""
    if target.window is None:
        return set()
    every = replace(target, window=None).logits(images)
    others = torch.cat([every[:, : target.window[0]], every[:, target.window[1] :]], 1)
    if not others.numel():
        return set()
    weights = torch.linspace(1, 2, others.numel()).to(others).view_as(others)
    gradients = _gradients((others * weights).sum(), [target.parameters[name] for name in names])
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient.any()}


def _pool(target: Target, head: Head, images: Tensor, chunk: int) -> Tensor | None:
    """What the head is applied to, if its output on that is the logits."""
    if head.weight is None or head.bias is None:
        return None
    parts = []
    for part in torch.split(images, chunk):
        uses = watch(target, part).get(head.weight, [])
        if len(uses) != 1 or uses[0].operand.dim() != 2:
            return None
        parts.append(uses[0].operand)
    pool, tensors = torch.cat(parts), {n: p.detach() for n, p in target.parameters.items()}
    if pool.shape != (len(images), head.rows(tensors).shape[1]):
        return None
    logits = pool @ head.rows(tensors).T + tensors[head.bias].flatten()
    return pool if torch.allclose(logits, head.logits, rtol=1e-3, atol=1e-3) else None


def _as_rows(tensor: Tensor, outputs: int) -> Tensor | None:
    """View as (outputs, -1) if the tensor could belong to a linear layer with that many outputs."""
    if tensor.numel() == outputs or (tensor.dim() and tensor.shape[0] == outputs):
        return tensor.reshape(outputs, -1)
    return tensor.T if tensor.dim() == 2 and tensor.shape[1] == outputs else None


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over several logits (N, K), the sigmoid of one."""
    return logits.softmax(-1) if logits.shape[-1] > 1 else logits.sigmoid()


def last_layer_signal(observation: Observation, head: Head, *, one_class: bool = True) -> tuple[Tensor | None, bool]:
    """mean(p − y) per logit, and whether it is exact (for one sample: whether its signs are).

    Without a bias, that a sample has `one_class` tells the sign.
    """
    if head.bias is not None and head.bias in observation.update:
        return observation.update[head.bias].flatten(), True
    if head.weight is None or head.feature is None or head.weight not in observation.update:
        return None, False
    rows = head.rows(dict(observation.update))
    if one_class and observation.batch_size == 1 and len(rows) > 2:
        left = torch.linalg.svd(rows.double(), full_matrices=False)[0][:, 0]
        negative = int((left < 0).sum())
        if negative in (1, len(rows) - 1):
            return (left if negative == 1 else -left), True
    return rows @ head.feature / head.feature.square().sum(), False
