"""ONNX reductions, softmax and matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.target.onnx.registry import operator


def _dimensions(x: Tensor, axes: Any, empty: bool) -> list[int]:
    """Axes to reduce: all of them where none are given, or none at all if ``empty`` says so."""
    if axes is None or (isinstance(axes, list | tuple) and not axes):
        return [] if empty else list(range(x.dim()))
    return [axes] if isinstance(axes, int) else list(axes)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.dim() for d in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keepdim=keep),
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keepdim=keep),
    "ReduceMax": lambda x, dims, keep: x.amax(dims, keepdim=keep),
    "ReduceMin": lambda x, dims, keep: x.amin(dims, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keepdim=keep),
    "ReduceL2": lambda x, dims, keep: x.square().sum(dims, keepdim=keep).sqrt(),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: torch.logsumexp(x, dims, keepdim=keep),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keepdim=keep),
}


def _reduction(name: str, compute: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    def by_input(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        dims = _dimensions(x, axes, bool(noop_with_empty_axes))
        return compute(x, dims, bool(keepdims)) if dims else x

    def by_attribute(x: Tensor, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
        return by_input(x, axes, keepdims=keepdims)

    by_input.__name__, by_attribute.__name__ = f"{name}_input", f"{name}_attribute"
    operator(name, since=13 if name == "ReduceSum" else 18, host=frozenset({1}))(by_input)
    operator(name)(by_attribute)


for _name, _compute in _REDUCTIONS.items():
    _reduction(_name, _compute)


@operator("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Position of the maximum, the first or the last of equal ones."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))


@operator("CumSum", host=frozenset({1}))
def cumulative_sum(x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sum along an axis."""
    dim = axis[0] if isinstance(axis, list) else axis
    flipped = x.flip(dim) if reverse else x
    total = flipped.cumsum(dim)
    total = total - flipped if exclusive else total
    return total.flip(dim) if reverse else total


@operator("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Softmax along one axis."""
    return F.softmax(x, dim=axis)


@operator("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithm of the softmax along one axis."""
    return F.log_softmax(x, dim=axis)


def _rows(x: Tensor, axis: int) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    return x.flatten(axis) if axis < x.dim() else x.unsqueeze(-1)


@operator("Softmax")
def softmax_rows(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: one softmax over all axes from ``axis`` on."""
    return F.softmax(_rows(x, axis), dim=-1).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax_rows(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: one log-softmax over all axes from ``axis`` on."""
    return F.log_softmax(_rows(x, axis), dim=-1).reshape(x.shape)


@operator("MatMul")
def matmul(first: Tensor, second: Tensor) -> Tensor:
    """Matrix product with broadcast leading axes."""
    return torch.matmul(first, second)


@operator("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Tensor:
    """``alpha A B + beta C``; a plain linear layer where it is one."""
    a = a.t() if transA else a
    if c is not None and c.dim() == 1 and alpha == beta == 1.0:
        return F.linear(a, b if transB else b.t(), c)
    product = torch.matmul(a, b.t() if transB else b)
    product = product if alpha == 1.0 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1.0 else beta * c)


@operator("Einsum")
def einsum(*tensors: Tensor, equation: str) -> Tensor:
    """Einstein summation."""
    return torch.einsum(equation.replace(" ", ""), *tensors)
