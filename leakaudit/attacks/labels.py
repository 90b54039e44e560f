"""Label inference: which classes are in the batch, read off the gradient of the last linear layer.

With logits ``z = W x + b`` and cross-entropy, ``∂ℓ/∂b = mean_i (p_i − y_i)`` and ``∂ℓ/∂W = mean_i (p_i − y_i) x_iᵀ``.

One sample: ``p − y`` has exactly one negative entry, the label (iDLG, Zhao et al. 2020, arXiv 2001.02610). Without a
bias, ``∂ℓ/∂W`` has rank one, and its left singular vector is ``p − y`` up to a sign that the same rule fixes, whatever
the sign of the features (iDLG's row sum needs non-negative features).

More samples: ``n_k / B = mean p_k − (mean of p_k − y_k)``. The first term is estimated by the model on random images, and
the counts are rounded so that they sum to B. An estimate, better on an untrained model than on a trained one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leakaudit.observation import Observation
from leakaudit.target.target import Target

PROBE_SIZE = 32


@dataclass(frozen=True, eq=False)
class LabelGuess:
    """Labels inferred from an update.

    Args:
        labels: Class indices (B,), in ascending order; the update does not tell which sample has which.
        method: The rule that gave them.
        exact: Whether the rule is exact for an undefended update.
    """

    labels: Tensor
    method: str
    exact: bool


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer: names of its tensors, and its mean input on random images.

    Args:
        weight: Name of the weight, (K, features) or, when `transposed`, (features, K).
        bias: Name of the bias (K,).
        transposed: Axis order of the weight.
        feature: Mean input of the layer over the probe (features,), or ``None`` without a weight.
        prediction: Mean predicted probabilities over the probe (K,).
    """

    weight: str | None
    bias: str | None
    transposed: bool
    feature: Tensor | None
    prediction: Tensor


def find_head(target: Target, observation: Observation, generator: Generator) -> Head:
    """Find the last linear layer by what it does: row k of its weight and entry k of its bias act on logit k alone."""
    parameters = target.parameters
    reference = next(iter(parameters.values()))
    size = PROBE_SIZE if target.batch_sizes is None else max(target.batch_sizes)
    noise = torch.randn((size, *observation.space.shape), generator=generator)
    logits = target.logits(noise.to(reference.device, reference.dtype))
    gradients = torch.autograd.grad(
        logits[:, 0].sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    weight = bias = feature = None
    transposed = False
    for (name, tensor), gradient in zip(parameters.items(), gradients, strict=True):
        rows = _as_rows(gradient.detach(), logits.shape[1])
        if rows is None or not bool(rows[0].any()) or bool(rows[1:].any()):
            continue
        if rows.shape[1] == 1:
            bias = name
        else:
            weight, feature = name, rows[0] / size
            transposed = tensor.shape[0] != logits.shape[1]
    return Head(weight, bias, transposed, feature, _probabilities(logits.detach()).mean(0))


def _as_rows(tensor: Tensor, outputs: int) -> Tensor | None:
    """View as (outputs, -1) if the tensor could belong to a linear layer with that many outputs."""
    if tensor.shape[0] == outputs or tensor.numel() == outputs:
        return tensor.reshape(outputs, -1)
    return tensor.T if tensor.dim() == 2 and tensor.shape[1] == outputs else None


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()


def infer_labels(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """Infer the labels behind an update; never looks at the batch.

    Args:
        target: The model, in the mode of the protocol.
        observation: The update and the batch size.
        generator: CPU generator of the random images that estimate the mean prediction.
    """
    head = find_head(target, observation, generator)
    signal, exact = _last_layer_signal(observation, head)
    size = observation.batch_size
    if signal is None:
        guess = torch.arange(size) % target.classes
        return LabelGuess(guess, "no linear last layer found: labels assumed 0, 1, 2, …", exact=False)
    if size == 1:
        label = int(signal[0] < 0) if target.binary else int(signal.argmin())
        return LabelGuess(torch.tensor([label]), "sign of the last layer's gradient (iDLG)", exact)
    share = (head.prediction - signal).double().cpu()
    if target.binary:
        share = torch.stack([1 - share[0], share[0]])
    counts = _round_counts(share, size)
    return LabelGuess(torch.repeat_interleave(torch.arange(target.classes), counts), "class counts", exact=False)


def _last_layer_signal(observation: Observation, head: Head) -> tuple[Tensor | None, bool]:
    """mean(p − y) per logit, and whether its signs are exact for one sample."""
    if head.bias is not None:
        return observation.update[head.bias].flatten(), True
    if head.weight is None or head.feature is None:
        return None, False
    gradient = observation.update[head.weight]
    rows = gradient.T if head.transposed else gradient.reshape(head.prediction.shape[0], -1)
    if observation.batch_size == 1 and len(rows) > 2:
        left = torch.linalg.svd(rows.double(), full_matrices=False)[0][:, 0]
        negative = int((left < 0).sum())
        if negative in (1, len(rows) - 1):
            return (left if negative == 1 else -left), True
    return rows @ head.feature / head.feature.square().sum(), False


def _round_counts(share: Tensor, size: int) -> Tensor:
    """Non-negative whole counts (K,) that sum to `size`, nearest to ``share * size`` by largest remainder."""
    quota = share.clamp_min(0)
    quota = quota / quota.sum() * size if bool(quota.any()) else torch.full_like(quota, size / len(quota))
    counts = quota.floor().long()
    counts[(quota - counts).argsort(descending=True)[: size - int(counts.sum())]] += 1
    return counts
