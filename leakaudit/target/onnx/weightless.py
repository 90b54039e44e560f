"""A model without the weights that were taken from it, so that they are in memory once.

Claim: a large tensor of the file is left out where the source has one of its name, shape and bits; whoever computes
with the model is given the module's (`leakaudit.target.onnx.selfcheck`). What is not the same is kept, so that the
comparison with an independent implementation is still one with the file.

A message of protocol buffers gives nothing back while a part of it lives: a new one is made.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from leakaudit.target.onnx.source import Array, Source

LARGE = 1 << 16
"""Bytes from which a tensor is left out; chosen, far below any network whose memory matters."""
_PART = 1 << 20
"""Entries that are compared at once."""


def without_weights(model: ModelProto, source: Source) -> ModelProto:
    """The same model, whose large tensors that the source holds bit by bit have no data, and the location EXTERNAL."""
    held = {**source.parameters, **source.buffers}
    light = ModelProto()
    _copy(model, light, {"graph"})
    _copy(model.graph, light.graph, {"initializer"})
    for tensor in model.graph.initializer:
        array = held.get(tensor.name)
        if array is not None and _same(tensor, array):
            light.graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=TensorProto.EXTERNAL
            )
        else:
            light.graph.initializer.add().CopyFrom(tensor)
    return light


def _copy(source: Any, target: Any, without: Collection[str]) -> None:
    """Merge all fields of a message into an empty one but some."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if field.is_repeated:
            getattr(target, field.name).MergeFrom(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _same(tensor: TensorProto, array: Array) -> bool:
    """Whether a large tensor of the file holds the bits of an array of float32."""
    if tensor.data_type != TensorProto.FLOAT or array.dtype != np.float32 or array.nbytes < LARGE:
        return False
    if tuple(tensor.dims) != array.shape or not array.flags.c_contiguous:
        return False
    one, other = np.frombuffer(tensor.raw_data, np.int32), array.reshape(-1).view(np.int32)
    starts = range(0, len(other), _PART)
    return len(one) == len(other) and all(np.array_equal(one[i : i + _PART], other[i : i + _PART]) for i in starts)
