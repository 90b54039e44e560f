"""Arrays of samples in the order of the model: channels before all other axes, whichever way a file has them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from leakaudit.client.readers.base import DataLayout
from leakaudit.errors import BatchError

AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
"""Names of the axes beside the channels."""


def arranged(
    array: np.ndarray[Any, Any], shape: Sequence[int], layout: DataLayout, where: str, *, last: bool = False
) -> tuple[np.ndarray[Any, Any], str]:
    """To (N, C, …), and how it was read.

    Args:
        array: (N, C, …), (N, …, C), (N, …) of one channel, or rows (N, D).
        shape: Of one sample, ``(C, …)``.
        layout: ``NCHW`` for channels first, ``NHWC`` for channels last; ``auto`` tells it from the sizes.
        where: The file, for messages.
        last: Whether the model itself has the channels last, which decides where both orders fit.

    Raises:
        BatchError: They are no numbers, or of other sizes.
    """
    c, *sides = shape
    names = AXES[len(sides)]
    if array.dtype.kind not in "uifb":
        raise BatchError(
            f"{where}: inputs have dtype {array.dtype}, expected uint8 or float", "convert them with .astype('float32')"
        )
    whole = ", ".join(map(str, shape))
    if array.ndim < 2 or len(array) == 0:
        raise BatchError(f"{where}: inputs have shape {array.shape}, expected (N, {whole}) with N ≥ 1")
    sample = array.shape[1:]
    behind = sample == (*sides, c) and layout != "NCHW"
    if sample == tuple(shape) and layout != "NHWC" and not (behind and last):
        return array, f"read as (N, C, {names}) = {array.shape}"
    if behind:
        return np.moveaxis(array, -1, 1), f"read as (N, {names}, C) = {array.shape}"
    if sample == tuple(sides) and c == 1:
        return array[:, None], f"read as (N, {names}) = {array.shape}"
    if sample == (prod(shape),):
        if layout == "NHWC":
            return np.moveaxis(array.reshape(-1, *sides, c), -1, 1), f"flat rows read as ({names}, C)"
        return array.reshape(-1, *shape), f"flat rows read as (C, {names})"
    declared = "" if layout == "auto" else f" with --layout {layout}"
    raise BatchError(
        f"{where}: one sample has shape {tuple(sample)}{declared}, the model takes {tuple(shape)} (C, {names})",
        f"store the inputs as (N, {whole}) or (N, {', '.join(map(str, (*sides, c)))})",
    )
