"""Nodes that depend on no tensor: shapes, indices and constants, computed at once by onnx's own implementation.

Memory stays bounded: what a node may make of a few bytes is worked out before it is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from leakaudit.errors import ModelError
from leakaudit.target.onnx.allowance import WAY_OUT, Allowance
from leakaudit.target.onnx.source import Array
from leakaudit.target.onnx.values import constant_value, filled, size_of

GROWING = frozenset({"Pad", "OneHot", "EyeLike", "Resize", "Upsample"})
"""Operators whose result's size is best told by running them on tensors without values."""
_MAX_ENTRIES = 1 << 26


def evaluate(node: NodeProto, opset: int, inputs: Sequence[Array | None], allowed: Allowance) -> Any:
    """The results of a node, as arrays.

    Args:
        node: The node.
        opset: Version of the default operator set.
        inputs: Its inputs, ``None`` where one is left out.
        allowed: What is left to the constants of the graph.

    Raises:
        ModelError: It is a loop, or would need too much memory.
    """
    if node.op_type == "Constant":
        return constant_value(node)
    if node.op_type == "ConstantOfShape":
        return filled(node, inputs[0], allowed)
    label = f"node {node.name or node.output[0]!r} ({node.op_type})"
    if any(attribute.type in _GRAPHS for attribute in node.attribute):
        raise ModelError(f"{label} is a loop", "export without control flow")
    given = [np.asarray(v) for v in inputs if v is not None]
    allowed.take(_result_bytes(node, given, label), label)
    return _reference(node, opset, inputs)


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


_NO_LARGER = frozenset({
    "Concat", "ScatterND", "ScatterElements", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Transpose",
    "GatherElements",
})  # fmt: skip
"""Operators whose results hold no more entries than their inputs together."""
_ELEMENTWISE = frozenset({
    "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
    "And", "Or", "Xor", "Where",
})  # fmt: skip
"""Operators whose result has the shape that their inputs are spread to."""


def _result_bytes(node: NodeProto, inputs: list[Array], label: str) -> int:
    """Bytes of the result of a node that may make more than it is given; 0 where it cannot.

    Raises:
        ModelError: It would compute too much, or its arguments make no sense.
    """
    if node.op_type == "Range":
        start, limit, step = (float(value.reshape(-1)[0]) for value in inputs)
        return size_of([_steps(start, limit, step, label)], 8)
    if node.op_type == "Expand":
        return size_of(np.broadcast_shapes(inputs[0].shape, tuple(int(i) for i in inputs[1])), 8)
    if node.op_type == "Tile":
        return size_of([a * int(b) for a, b in zip(inputs[0].shape, inputs[1], strict=True)], 8)
    if node.op_type in _NO_LARGER:
        return 0
    if node.op_type in _ELEMENTWISE:
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        return size_of(shape, 8) if math.prod(shape) > max(value.size for value in inputs) else 0
    # no operator left makes more entries than the product of those that it is given
    product = math.prod(max(1, value.size) for value in inputs)
    if product > _MAX_ENTRIES and len(inputs) > 1 and min(value.size for value in inputs) > 1024:
        raise ModelError(f"{label} computes too large a constant", WAY_OUT)
    return 0


def _steps(start: float, limit: float, step: float, label: str) -> int:
    """How many numbers a range has.

    Raises:
        ModelError: It has no end.
    """
    number = (limit - start) / step if step else math.nan
    if not math.isfinite(number):
        raise ModelError(f"{label} goes from {start:g} to {limit:g} in steps of {step:g}", "the file is damaged")
    return max(0, math.ceil(number))


def _reference(node: NodeProto, opset: int, inputs: Sequence[Array | None]) -> Any:
    """The results of one node by onnx's own reference implementation."""
    from onnx.reference import ReferenceEvaluator

    names = [key for key, value in zip(node.input, inputs, strict=False) if key and value is not None]
    infos = [helper.make_tensor_value_info(key, TensorProto.UNDEFINED, None) for key in dict.fromkeys(names)]
    outputs = [helper.make_tensor_value_info(key, TensorProto.UNDEFINED, None) for key in node.output if key]
    graph = helper.make_graph([node], "host", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {key: value for key, value in zip(node.input, inputs, strict=False) if key and value is not None}
    with np.errstate(all="ignore"):
        return tuple(np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds))
