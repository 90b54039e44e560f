"""Derivatives of outputs that are weighted by tensors, without what torch checks the shapes of these by.

For that check ``torch.autograd.grad`` imports `sympy`, which takes a third of the time of importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Weighted(torch.autograd.Function):
    """A scalar whose derivatives are the weights as they are; its value is of no use."""

    @staticmethod
    def forward(context: Any, weights: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        """Zero."""
        context.weights = weights
        return outputs[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(context: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        """Nothing for the weights, then these."""
        return None, *context.weights


def pullback(outputs: Sequence[Tensor], inputs: Tensor, weights: Sequence[Tensor]) -> Tensor | None:
    """Derivative of Σ ⟨weight, output⟩ by the inputs, shaped as these; ``None`` where no output depends on them.

    Args:
        outputs: Each with a derivative; their graph is let go.
        inputs: A leaf.
        weights: Of the shape and type of each output.
    """
    (found,) = torch.autograd.grad(_Weighted.apply(weights, *outputs), [inputs], allow_unused=True)
    return found
