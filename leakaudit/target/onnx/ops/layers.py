"""ONNX convolutions, pools, resizing, attention and random masks."""

# torch's own annotations of arithmetic and views are loose
# mypy: disable-error-code="no-any-return,no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.target.onnx.registry import operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _padding(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Any, auto_pad: str
) -> tuple[list[int], list[int]]:
    """Begin and end padding per spatial axis."""
    rank = len(kernel)
    if auto_pad in ("NOTSET", "") or (auto_pad == "VALID" and pads is None):
        pads = list(pads) if pads else [0] * (2 * rank)
        return pads[:rank], pads[rank:]
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    begins, ends = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if auto_pad == "SAME_UPPER" else large)
        ends.append(large if auto_pad == "SAME_UPPER" else small)
    return begins, ends


def _pad(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    widths = [width for pair in zip(reversed(begins), reversed(ends), strict=True) for width in pair]
    return F.pad(x, widths, value=value) if any(widths) else x


@operator("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolution over one to three spatial axes."""
    rank = x.dim() - 2
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    begins, ends = _padding(x, weight.shape[2:], strides, dilations, pads, auto_pad)
    if begins != ends:
        x, begins = _pad(x, begins, ends), [0] * rank
    return _CONV[rank](x, weight, bias, strides, begins, dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Transposed convolution; padding is cut off the full result."""
    rank = x.dim() - 2
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    extra = list(output_padding or [0] * rank)
    full = [
        (size - 1) * s + d * (k - 1) + 1 + e
        for size, s, d, k, e in zip(x.shape[2:], strides, dilations, weight.shape[2:], extra, strict=True)
    ]
    begins, ends = list(pads or [0] * 2 * rank)[:rank], list(pads or [0] * 2 * rank)[rank:]
    if output_shape or auto_pad.startswith("SAME"):
        wanted = list(output_shape or [])[-rank:] or [s * n for s, n in zip(strides, x.shape[2:], strict=True)]
        totals = [f - w for f, w in zip(full, wanted, strict=True)]
        halves = [total // 2 for total in totals]
        rests = [total - half for total, half in zip(totals, halves, strict=True)]
        begins, ends = (halves, rests) if auto_pad == "SAME_UPPER" else (rests, halves)
    y = _TRANSPOSED[rank](x, weight, bias, strides, 0, 0, group, dilations)
    return _pad(y, [-b for b in begins], [e - c for e, c in zip(extra, ends, strict=True)])


def _ceil_padding(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    begins: list[int],
    ends: list[int],
) -> list[int]:
    """End padding that lets the last, partial window in; one that would start in the padding is left out."""
    result = []
    for size, k, s, d, b, e in zip(x.shape[2:], kernel, strides, dilations, begins, ends, strict=True):
        span = d * (k - 1) + 1
        windows = -(-(size + b + e - span) // s) + 1
        windows -= int((windows - 1) * s >= size + b)
        result.append(max(e, (windows - 1) * s + span - size - b))
    return result


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Maximum over windows."""
    rank = len(kernel_shape)
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    begins, ends = _padding(x, kernel_shape, strides, dilations, pads, auto_pad)
    if ceil_mode:
        ends = _ceil_padding(x, kernel_shape, strides, dilations, begins, ends)
    if begins != ends or any(2 * b > k for b, k in zip(begins, kernel_shape, strict=True)):
        x, begins = _pad(x, begins, ends, float("-inf")), [0] * rank
    return _MAX_POOL[rank](x, list(kernel_shape), strides, begins, dilations)


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Mean over windows; padding counts only with ``count_include_pad``."""
    rank = len(kernel_shape)
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    begins, ends = _padding(x, kernel_shape, strides, dilations, pads, auto_pad)
    counted = _pad(torch.ones_like(x[:1, :1]), begins, ends, float(bool(count_include_pad)))
    if ceil_mode:
        longer = _ceil_padding(x, kernel_shape, strides, dilations, begins, ends)
        counted = _pad(counted, [0] * rank, [a - b for a, b in zip(longer, ends, strict=True)])
        ends = longer
    padded = _pad(x, begins, ends)
    sums = _window_sums(padded, kernel_shape, strides, dilations)
    if padded.shape == x.shape or bool(count_include_pad and not ceil_mode):
        return sums / math.prod(kernel_shape)
    return sums / _window_sums(counted, kernel_shape, strides, dilations)


def _window_sums(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Sum over windows: torch's mean times its size, or a depth-wise convolution where it is dilated."""
    rank, size = len(kernel), math.prod(kernel)
    if all(d == 1 for d in dilations):
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[rank]
        result: Tensor = pool(x, list(kernel), list(strides)) * size
        return result
    ones = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype, device=x.device)
    return _CONV[rank](x, ones, None, list(strides), 0, list(dilations), x.shape[1])


@operator("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """p-norm over windows."""
    rank = len(kernel_shape)
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    begins, ends = _padding(x, kernel_shape, strides, dilations, pads, auto_pad)
    if ceil_mode:
        ends = _ceil_padding(x, kernel_shape, strides, dilations, begins, ends)
    powers = _pad(x.abs().pow(p), begins, ends)
    return _window_sums(powers, kernel_shape, strides, dilations).pow(1.0 / p)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """p-norm over all spatial axes."""
    return torch.linalg.vector_norm(x, ord=p, dim=list(range(2, x.dim())), keepdim=True)


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Mean over all spatial axes."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over all spatial axes."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


@operator("Attention")
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> Tensor:
    """Scaled dot-product attention, spelled out: the fused kernels have no second derivative."""
    merged = query.dim() == 3
    if merged:
        query, key, value = (
            t.unflatten(-1, (heads, -1)).transpose(1, 2)
            for t, heads in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
        )
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    scores = torch.matmul(query, key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    hidden = torch.isneginf(scores).all(-1, keepdim=True)  # a row without any key attends to nothing
    weights = F.softmax(scores.masked_fill(hidden, 0.0), dim=-1).masked_fill(hidden, 0.0)
    result = torch.matmul(weights, value)
    return result.transpose(1, 2).flatten(-2) if merged else result


@operator("RandomUniformLike")
def random_uniform_like(
    x: Tensor, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None
) -> Tensor:
    """Uniform noise in the shape of ``x``, as stochastic depth is exported."""
    return low + (high - low) * torch.rand_like(x)


@operator("RandomNormalLike")
def random_normal_like(
    x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    """Normal noise in the shape of ``x``."""
    return mean + scale * torch.randn_like(x)


@operator("Bernoulli")
def bernoulli(x: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    """Ones with the probabilities ``x``."""
    return (torch.rand_like(x) < x).to(x.dtype)
