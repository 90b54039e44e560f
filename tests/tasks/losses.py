"""Losses as users write them, for ``--loss tests.tasks.losses:NAME``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with label smoothing; takes class indices or shares."""
    return F.cross_entropy(outputs, labels, label_smoothing=0.2)


def indices_only(outputs: Tensor, labels: Tensor) -> Tensor:
    """A margin loss, which takes class indices alone."""
    return F.multi_margin_loss(outputs, labels, p=2)


def log_cosh(outputs: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the hyperbolic cosine of the residual."""
    return torch.log(torch.cosh(outputs - labels)).mean()


def asymmetric(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared errors of probabilities, those of marked classes threefold."""
    return ((1 + 2 * labels) * (outputs.sigmoid() - labels) ** 2).mean()


class _Once(torch.autograd.Function):
    """Squares, with a derivative that has none."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.square()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


def once(outputs: Tensor, labels: Tensor) -> Tensor:
    """As CTC: no second derivative."""
    return _Once.apply(outputs - labels).mean()  # type: ignore[no-any-return, no-untyped-call]


def ctc(outputs: Tensor, labels: Tensor) -> Tensor:
    """Connectionist temporal classification of one symbol over six places of three."""
    logs = outputs.reshape(-1, 6, 3).log_softmax(2).transpose(0, 1)
    return F.ctc_loss(logs, labels[:, None], torch.full_like(labels, 6), torch.ones_like(labels))


def broken(outputs: Tensor, labels: Tensor) -> Tensor:
    """Raises."""
    raise KeyError("gold")


def detached(outputs: Tensor, labels: Tensor) -> Tensor:
    """Has no derivative."""
    return (outputs.detach() - labels).square().mean()


def per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Forgets the mean."""
    return (outputs - labels).square().mean(1)


NO_FUNCTION = 3


CALLED = torch.nn.BCEWithLogitsLoss()
"""An object that is called, of a class that stands elsewhere."""
