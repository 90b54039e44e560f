"""Nodes that depend on no tensor: shapes, indices and constants, computed at once by onnx's own implementation.

Memory stays bounded: what a node may make of a few bytes is worked out before it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from leakaudit.errors import ModelError
from leakaudit.target.onnx.source import Array
from leakaudit.target.onnx.values import check_size, constant_value, filled

GROWING = frozenset({"Pad", "OneHot", "EyeLike", "Resize", "Upsample"})
"""Operators whose result's size is best told by running them on fake tensors."""
_MAX_ENTRIES = 1 << 26


def evaluate(node: NodeProto, opset: int, inputs: Sequence[Array | None]) -> Any:
    """The results of a node, as arrays.

    Raises:
        ModelError: It is a loop, or would need too much memory.
    """
    if node.op_type == "Constant":
        return constant_value(node)
    if node.op_type == "ConstantOfShape":
        return filled(node, inputs[0])
    label = f"node {node.name or node.output[0]!r} ({node.op_type})"
    if any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute):
        raise ModelError(f"{label} is a loop", "export without control flow")
    _bound(node, [np.asarray(v) for v in inputs if v is not None], label)
    return _reference(node, opset, inputs)


def _bound(node: NodeProto, inputs: list[Array], label: str) -> None:
    """Refuse a result that is too large."""
    if node.op_type == "Range":
        start, limit, step = (float(value.reshape(-1)[0]) for value in inputs)
        check_size([max(0, int((limit - start) / step) + 1)], 8, label)
    elif node.op_type == "Expand":
        check_size(np.broadcast_shapes(inputs[0].shape, tuple(int(i) for i in inputs[1])), 8, label)
    elif node.op_type == "Tile":
        check_size([a * int(b) for a, b in zip(inputs[0].shape, inputs[1], strict=True)], 8, label)
    else:  # no operator left makes more entries than the product of those that it is given
        product = 1
        for value in inputs:
            product *= max(1, value.size)
        if product > _MAX_ENTRIES and len(inputs) > 1 and min(value.size for value in inputs) > 1024:
            raise ModelError(f"{label} computes too large a constant", "the file is damaged or hostile")


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
