"""ONNX operators that move elements without computing: views, gathers, concatenation, padding, casts."""

# torch's own annotations of arithmetic and views are loose
# mypy: disable-error-code="no-any-return,no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from leakaudit.errors import ModelError
from leakaudit.target.onnx.registry import operator

_TYPES = {
    TensorProto.BOOL: torch.bool, TensorProto.UINT8: torch.uint8, TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64,
}  # fmt: skip


@operator("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> np.ndarray:
    """The dimensions of ``x`` as integers that are known without running the model."""
    return np.array(list(x.shape)[start:end], dtype=np.int64)


@operator("Size")
def size(x: Tensor) -> np.ndarray:
    """The number of elements of ``x``."""
    return np.array(x.numel(), dtype=np.int64)


@operator("Reshape", since=5, host=frozenset({1}))
def reshape(x: Tensor, target: Sequence[int], *, allowzero: int = 0) -> Tensor:
    """The elements in another shape; 0 keeps a dimension (unless ``allowzero``), -1 is inferred."""
    sizes = [x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(target)]
    return x.reshape(sizes)


@operator("Reshape", since=1)
def reshape_attribute(x: Tensor, *, shape: Sequence[int] = (), consumed_inputs: Any = None) -> Tensor:
    """As `reshape`, with the shape as an attribute before opset 5."""
    return reshape(x, shape)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """A matrix with the axes before ``axis`` as rows."""
    axis = axis + x.dim() if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, -1) if axis else x.reshape(1, -1)


@operator("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Permuted axes, reversed by default."""
    return x.permute(*(perm if perm is not None else range(x.dim() - 1, -1, -1)))


def _as_list(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes)


@operator("Squeeze", since=13, host=frozenset({1}))
def squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Drop axes of length one."""
    if axes is None:
        return x.squeeze()
    gone = {axis % x.dim() for axis in _as_list(axes)}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone])


@operator("Squeeze")
def squeeze_attribute(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """As `squeeze`, with the axes as an attribute before opset 13."""
    return squeeze(x, axes)


@operator("Unsqueeze", since=13, host=frozenset({1}))
def unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Insert axes of length one at positions of the result."""
    axes = _as_list(axes)
    rank = x.dim() + len(axes)
    new = {axis % rank for axis in axes}
    sizes = iter(x.shape)
    return x.reshape([1 if axis in new else next(sizes) for axis in range(rank)])


@operator("Unsqueeze")
def unsqueeze_attribute(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """As `unsqueeze`, with the axes as an attribute before opset 13."""
    return unsqueeze(x, axes)


@operator("Concat")
def concat(*tensors: Tensor, axis: int = 1) -> Tensor:
    """Tensors side by side along an axis."""
    return torch.cat(tensors, dim=axis)


@operator("Split", since=13, host=frozenset({1}), count=True)
def split(
    x: Tensor, sizes: Sequence[int] | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> tuple[Tensor, ...]:
    """Pieces along an axis; without sizes, equal ones (the last may be smaller)."""
    if sizes is None:
        number = num_outputs or outputs
        sizes = [-(-x.shape[axis] // number)] * (number - 1)
        sizes = [*sizes, x.shape[axis] - sum(sizes)]
    return tuple(torch.split(x, list(sizes), dim=axis))


_split = split


@operator("Split", count=True)
def split_attribute(
    x: Tensor, *, axis: int = 0, split: Sequence[int] | None = None, outputs: int = 1
) -> tuple[Tensor, ...]:
    """As `split`, with the sizes as an attribute before opset 13."""
    return _split(x, split, axis=axis, outputs=outputs)


@operator("Slice", since=10, host=frozenset({1, 2, 3, 4}))
def slices(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    """``x[start:end:step]`` per axis; a negative step reverses."""
    axes = list(range(len(starts))) if axes is None else list(axes)
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(axes), strict=True):
        length = x.shape[axis]
        index = range(length)[slice(start, end if end >= -length or step > 0 else None, step)]
        if step == 1:
            x = x.narrow(axis, index.start if len(index) else 0, len(index))
        else:
            x = x.index_select(axis, torch.tensor(list(index), dtype=torch.int64, device=x.device))
    return x


@operator("Slice")
def slices_attribute(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Tensor:
    """As `slices`, with everything as attributes before opset 10."""
    return slices(x, starts, ends, axes)


@operator("Gather", host=frozenset())
def gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Entries of ``x`` along an axis at integer positions of any shape."""
    axis %= x.dim()
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    if x.is_meta:  # arithmetic with integers that have no values imports torch's compiler
        return x.new_empty(shape)
    index = torch.where(index < 0, index + x.shape[axis], index)
    return x.index_select(axis, index.reshape(-1)).reshape(shape)


@operator("GatherElements")
def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """One entry of ``x`` per entry of ``index`` along an axis."""
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


@operator("ScatterND", since=11)
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """``x`` with entries, or whole slices, put or added at integer places (…, axes)."""
    if reduction not in ("none", "add"):
        raise ModelError(f"ScatterND with reduction {reduction!r} is not supported", "export the model without it")
    return x.index_put(index.unbind(-1), updates, accumulate=reduction == "add")


@operator("Expand", host=frozenset({1}))
def expand(x: Tensor, target: Sequence[int]) -> Tensor:
    """Broadcast against a shape; dimensions of 1 in it keep those of ``x``."""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(target)))


@operator("Tile", since=6, host=frozenset({1}))
def tile(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Repetition along every axis."""
    return x.repeat(*repeats)


@operator("Pad", since=11, host=frozenset({1, 2, 3}))
def pad(
    x: Tensor, pads: Sequence[int], value: Any = None, axes: Sequence[int] | None = None, *, mode: str = "constant"
) -> Tensor:
    """Padding, ``pads`` being all begins and then all ends; negative ones cut."""
    axes = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    widths = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    flat = [width for axis in range(x.dim() - 1, -1, -1) for width in widths.get(axis, (0, 0))]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if mode == "constant":
        fill = value[0] if isinstance(value, list) else value
        return F.pad(x, flat, value=float(fill or 0.0)) if any(flat) else x
    return F.pad(x, flat, mode={"edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode])


@operator("Pad")
def pad_attributes(
    x: Tensor, *, pads: Sequence[int] = (), paddings: Sequence[int] = (), value: float = 0.0, mode: str = "constant"
) -> Tensor:
    """As `pad`, with everything as attributes before opset 11."""
    return pad(x, pads or paddings, value, mode=mode)


@operator("Cast")
def cast(x: Tensor, *, to: Any, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Change of type; all floating types become the one that the model computes in."""
    if isinstance(to, str):
        to = TensorProto.DataType.Value(to)
    if to in _TYPES:
        return x.to(_TYPES[to])
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


@operator("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Change to the type of ``like``."""
    return x.to(like.dtype)


@operator("Trilu", host=frozenset({1}))
def trilu(x: Tensor, diagonal: Any = 0, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle."""
    offset = diagonal[0] if isinstance(diagonal, list) else diagonal or 0
    return torch.triu(x, offset) if upper else torch.tril(x, offset)


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels to blocks of pixels; (N, C, H, W)."""
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    if mode == "CRD":
        return x.reshape(n, depth, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, depth, h * b, w * b)
    return x.reshape(n, b, b, depth, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, depth, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Blocks of pixels to channels; (N, C, H, W)."""
    n, c, h, w = x.shape
    b = blocksize
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
