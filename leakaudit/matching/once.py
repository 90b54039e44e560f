"""Distances of gradients whose derivative is written out: they can be differentiated once, and keep little for it.

A distance gives its value together with the factors of its derivative, by all gradients as they are (:class:`Linear`)
or as one vector (:class:`Apart`). What of both is passed on to autograd is in :class:`Lean` and :class:`Flat`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leakaudit.target.parts import parts


@dataclass(frozen=True)
class Linear:
    """A distance D whose derivative is ∂D/∂g = a g - b g*.

    Args:
        value: D.
        own: a.
        observed: b.
    """

    value: float
    own: float
    observed: float


@dataclass(frozen=True, eq=False)
class Apart:
    """A distance D of gradients as one vector g (N,).

    Args:
        value: D.
        derivative: ∂D/∂g (N,).
    """

    value: float
    derivative: Tensor


class Written(Protocol):
    """A distance that writes its derivative out."""

    observed: tuple[Tensor, ...]

    def linear(self, gradients: Sequence[Tensor]) -> Linear:
        """The distance and its derivative, see :class:`Linear`."""

    def apart(self, flat: Tensor) -> Apart:
        """The distance and its derivative, see :class:`Apart`; may overwrite the gradients."""


ROW = 1024
"""Entries that are summed in float32 before float64 takes over; chosen: of two million uneven entries torch's norm is
wrong by 7e-5 in one go, by 4e-8 row by row, and takes as long."""


def norm_of(vector: Tensor) -> float:
    """Euclidean norm of a vector (N,), without a copy of it."""
    whole = vector.numel() // ROW * ROW
    rows = torch.linalg.vector_norm(vector[:whole].view(-1, ROW), dim=1)
    rest = torch.linalg.vector_norm(vector[whole:])
    return math.hypot(float(torch.linalg.vector_norm(rows, dtype=torch.float64)), float(rest))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all entries of all tensors as one vector (N,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def pairs_of(gradients: Sequence[Tensor], observed: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Corresponding parts of gradients and observed ones, in float64."""
    for gradient, seen in zip(gradients, observed, strict=True):
        for one, other in zip(parts(gradient.detach()), parts(seen), strict=True):
            yield one.double(), other.double()


class Lean(torch.autograd.Function):
    """A distance that keeps nothing for its derivative but the gradients; that has no derivative itself."""

    @staticmethod
    def forward(context: Any, distance: Written, *gradients: Tensor) -> Tensor:
        """The distance, a scalar."""
        found = distance.linear(gradients)
        context.save_for_backward(*gradients)
        context.observed, context.factors = distance.observed, (found.own, found.observed)
        return gradients[0].new_tensor(found.value)

    @staticmethod
    @once_differentiable
    def backward(context: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Nothing for the distance, then what each of the gradients gets of `outer`."""
        own, observed = (float(outer) * factor for factor in context.factors)
        pairs = zip(context.saved_tensors, context.observed, strict=True)
        return None, *(torch.mul(g, own).sub_(seen, alpha=observed) for g, seen in pairs)


class Flat(torch.autograd.Function):
    """The same of small gradients as one vector, with the derivative kept: no cancellation, and few operations.

    What there is of them is in place: a block of memory of this size costs more to get than to fill.
    """

    @staticmethod
    def forward(context: Any, distance: Written, *gradients: Tensor) -> Tensor:
        """The distance, a scalar."""
        context.shapes = [gradient.shape for gradient in gradients]
        found = distance.apart(joined(gradients))
        context.save_for_backward(found.derivative)
        return found.derivative.new_tensor(found.value)

    @staticmethod
    @once_differentiable
    def backward(context: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Nothing for the distance, then what each of the gradients gets of `outer`."""
        (derivative,) = context.saved_tensors
        factor = float(outer)
        whole = derivative if factor == 1 else derivative * factor
        sizes = [shape.numel() for shape in context.shapes]
        pieces = zip(whole.split(sizes), context.shapes, strict=True)
        return None, *(piece.view(shape) for piece, shape in pieces)
