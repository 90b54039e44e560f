"""ONNX Resize and Upsample as one small matrix per axis, so that every mode has a second derivative.

``y = R_last (… (R_2 x))`` with ``R_axis`` (out, in): row ``i`` holds the weights of the neighbours of the position in
the input that output ``i`` comes from. Positions and weights follow the operator's specification (versions 7 to 19).
Not supported: ``tf_crop_and_resize``, antialiasing, and keeping the aspect ratio.
"""

# torch's own annotations of arithmetic and views are loose
# mypy: disable-error-code="no-any-return,no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakaudit.errors import ModelError
from leakaudit.target.onnx.allowance import WAY_OUT
from leakaudit.target.onnx.registry import operator

MOST_TAPS = 1 << 25
"""Largest matrix of a Resize node; chosen: from 4096 pixels to 8192."""
_NEAREST: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _positions(rule: str, size: int, count: int, scale: float) -> Any:
    """Where in an axis of ``size`` entries each of ``count`` resized entries comes from."""
    index = np.arange(count, dtype=np.float64)
    if rule == "align_corners":
        return index * (size - 1) / (count - 1) if count > 1 else index
    if rule == "asymmetric":
        return index / scale
    if rule == "tf_half_pixel_for_nn":
        return (index + 0.5) / scale
    if rule == "pytorch_half_pixel" and count == 1:
        return index
    if rule in ("half_pixel", "pytorch_half_pixel"):
        return (index + 0.5) / scale - 0.5
    if rule == "half_pixel_symmetric":
        return size / 2 * (1 - count / (scale * size)) + (index + 0.5) / scale - 0.5
    raise ModelError(f"a Resize node has the coordinate mode {rule!r}, which is not supported", "use half_pixel")


def _cubic(distance: Any, a: float) -> Any:
    """Keys' cubic kernel (1981) at non-negative distances."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _matrix(mode: str, nearest: str, positions: Any, size: int, a: float, exclude: bool) -> Any:
    """The weights (out, in) of one axis; neighbours beyond the border are its last entry, or left out."""
    if mode == "nearest":
        taps, weights = _NEAREST[nearest](positions)[:, None], np.ones((len(positions), 1))
    else:
        reach = np.arange(0, 2) if mode == "linear" else np.arange(-1, 3)
        taps = np.floor(positions)[:, None] + reach
        distance = np.abs(positions[:, None] - taps)
        weights = 1 - distance if mode == "linear" else _cubic(distance, a)
    if exclude:
        weights = np.where((taps >= 0) & (taps < size), weights, 0.0)
        weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((len(positions), size))
    rows = np.broadcast_to(np.arange(len(positions))[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, size - 1).astype(np.int64)), weights)
    return matrix


def _resized(x: Tensor, counts: Sequence[int], scales: Sequence[float], rule: str, weights: Any) -> Tensor:
    """``x`` with every axis that changes multiplied by its matrix; samples are never mixed."""
    for axis in range(1, x.dim()):
        size, count, scale = x.shape[axis], counts[axis], scales[axis]
        if count == size and scale == 1.0:
            continue
        if count * size > MOST_TAPS:
            raise ModelError(f"a Resize node makes {count} numbers of {size}", WAY_OUT)
        matrix = torch.tensor(weights(_positions(rule, size, count, scale), size), dtype=x.dtype, device=x.device)
        x = torch.matmul(x.transpose(axis, -1), matrix.t()).transpose(axis, -1)
    return x


def _counts(x: Tensor, scales: Sequence[float]) -> list[int]:
    # a scale is a float32: 1.1999999 * 10 means 12
    return [math.floor(size * scale + 1e-5) for size, scale in zip(x.shape, scales, strict=True)]


@operator("Resize", since=11, host=frozenset({1, 2, 3}))
def resize(
    x: Tensor,
    roi: Any = None,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    nearest_mode: str = "round_prefer_floor",
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Another number of entries along some axes, by scale or by size."""
    chosen = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    if sizes:
        wanted = dict(zip(chosen, sizes, strict=True))
        counts = [int(wanted.get(axis, size)) for axis, size in enumerate(x.shape)]
        factors = [count / size for count, size in zip(counts, x.shape, strict=True)]
    else:
        given = dict(zip(chosen, scales or [], strict=True))
        factors = [float(given.get(axis, 1.0)) for axis in range(x.dim())]
        counts = _counts(x, factors)

    def weights(positions: Any, size: int) -> Any:
        return _matrix(mode, nearest_mode, positions, size, cubic_coeff_a, bool(exclude_outside))

    return _resized(x, counts, factors, coordinate_transformation_mode, weights)


@operator("Resize", since=10, host=frozenset({1}))
@operator("Upsample", since=9, host=frozenset({1}))
def upsample(x: Tensor, scales: Sequence[float], *, mode: str = "nearest") -> Tensor:
    """By scales, the first entries being aligned, before opset 11."""
    settings: Any = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return resize(x, None, scales, mode="linear" if mode in ("linear", "bilinear") else mode, **settings)


@operator("Upsample")
def upsample_attributes(
    x: Tensor,
    *,
    scales: Sequence[float] | None = None,
    height_scale: float = 1.0,
    width_scale: float = 1.0,
    mode: str = "nearest",
) -> Tensor:
    """As `upsample`, with the scales as attributes before opset 9."""
    return upsample(x, scales or [1.0, 1.0, height_scale, width_scale], mode=mode)
