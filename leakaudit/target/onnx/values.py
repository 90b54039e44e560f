"""Python values of ONNX tensors and attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from leakaudit.errors import ModelError
from leakaudit.target.onnx.allowance import Allowance

WIDENED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def array(tensor: TensorProto, where: str) -> np.ndarray[Any, Any]:
    """The values of a tensor.

    Raises:
        ModelError: Its data do not fill its shape.
    """
    if not isinstance(tensor, TensorProto):
        raise ModelError(f"tensor {where!r} is missing", "the file is damaged")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, MemoryError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"tensor {where!r} of shape {list(tensor.dims)} cannot be read: {error}", "the file is damaged"
        ) from error


def check_attributes(node: NodeProto, opset: int, path: str) -> None:
    """Refuse an attribute of another type than the operator's schema says, or of none that holds plain data.

    Raises:
        ModelError: A graph where a number belongs, an attribute without a type, a graph for an unknown attribute.
    """
    try:
        schema = None if node.domain else defs.get_schema(node.op_type, max_inclusive_version=opset)
    except defs.SchemaError:  # an unknown operator, named later with all others
        schema = None
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise ModelError(
                f"{path}: attribute {attribute.name!r} of node {node.name or node.op_type!r} refers to "
                f"{attribute.ref_attr_name!r} of a function, and stands in none",
                "the file is damaged or hostile: export or copy it again",
            )
        known = None if schema is None else schema.attributes.get(attribute.name)
        expected = _PLAIN if known is None else (int(known.type.value),)
        if attribute.type not in expected:
            raise ModelError(
                f"{path}: attribute {attribute.name!r} of node {node.name or node.op_type!r} ({node.op_type}) has type "
                f"{_type_name(attribute.type)}, expected {' or '.join(_type_name(kind) for kind in expected)}",
                "the file is damaged or hostile: export or copy it again",
            )


_PLAIN = (
    AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING, AttributeProto.INTS, AttributeProto.FLOATS,
    AttributeProto.STRINGS,
)  # fmt: skip
"""Types of an attribute that no schema knows."""


def _type_name(kind: int) -> str:
    return str(AttributeProto.AttributeType.Name(kind)) if kind in AttributeProto.AttributeType.values() else str(kind)


def type_name(kind: int) -> str:
    """The name of a type of numbers, or its code where it has none."""
    return str(TensorProto.DataType.Name(kind)) if kind in TensorProto.DataType.values() else f"unknown ({kind})"


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes as Python values; strings decoded, subgraphs and tensors as protos."""
    return {attribute.name: _attribute(attribute) for attribute in node.attribute}


def _attribute(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple) or type(value).__name__.startswith("Repeated"):
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
    return value


def constant_value(node: NodeProto) -> np.ndarray[Any, Any]:
    """The array of a Constant node."""
    found = attributes(node)
    label = node.output[0] if node.output else node.name
    if "value" in found:
        return array(found["value"], label)
    for key, kind in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in found:
            return np.array(found[key], dtype=kind)
    raise ModelError(f"constant {label!r} holds neither numbers nor a tensor", "remove strings and sparse tensors")


def size_of(shape: Any, itemsize: int) -> int:
    """Bytes of a tensor of this shape.

    Raises:
        ModelError: A size is negative.
    """
    sizes = [int(size) for size in shape]
    if any(size < 0 for size in sizes):
        raise ModelError(f"a tensor of shape {sizes} is asked for", "the file is damaged")
    return math.prod(sizes) * itemsize


def widen(model: ModelProto) -> bool:
    """Turn all floating tensors, types and casts into float32, in place; whether anything was half or bfloat16."""
    half = False
    pending: list[GraphProto] = [model.graph]
    while pending:
        graph = pending.pop()
        for tensor in graph.initializer:
            half |= _widen_tensor(tensor)
        for info in (*graph.input, *graph.output):
            kind = info.type.tensor_type
            if kind.elem_type in WIDENED:
                half |= kind.elem_type != TensorProto.DOUBLE
                kind.elem_type = TensorProto.FLOAT
        del graph.value_info[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    half |= _widen_tensor(attribute.t)
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                if attribute.name in ("to", "dtype") and attribute.i in WIDENED:
                    attribute.i = TensorProto.FLOAT
                if attribute.name == "to" and attribute.s in (b"FLOAT16", b"DOUBLE", b"BFLOAT16"):
                    attribute.s = b"FLOAT"
    return half


def _widen_tensor(tensor: TensorProto) -> bool:
    if tensor.data_type not in WIDENED:
        return False
    half = bool(tensor.data_type != TensorProto.DOUBLE)
    values = array(tensor, tensor.name).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return half


def filled(node: NodeProto, sizes: Any, allowed: Allowance) -> np.ndarray[Any, Any]:
    """The result of a ConstantOfShape node.

    Raises:
        ModelError: It is larger than what is left to the graph, or not described.
    """
    label = f"node {node.name or node.output[0]!r} (ConstantOfShape)"
    proto = attributes(node).get("value")
    values = np.zeros(1, np.float32) if proto is None else array(proto, node.output[0]).reshape(-1)
    shape = np.asarray(sizes).reshape(-1)
    if not values.size or shape.dtype.kind not in "iu":
        raise ModelError(f"{label} has no value or no shape", "the file is damaged")
    allowed.take(size_of(shape, values.dtype.itemsize), label)
    return np.full(tuple(int(size) for size in shape), values[0], dtype=values.dtype)
