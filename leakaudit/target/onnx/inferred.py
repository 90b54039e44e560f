"""Shapes of results as onnx itself infers them, node by node, for the operators that most networks are made of.

Torch would tell them too, by running the operator on tensors without values. But many of its operators do that in
Python, and the first of them imports torch's compiler and `sympy`, which takes longer than all else that reading a
small file does. Onnx infers in C++.

Claim: where a shape is given here, the operator runs on such inputs and gives that shape; what onnx does not check
(channels, inner dimensions) is checked. Where anything is unusual nothing is given, and torch is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, TypeProto, checker, defs, helper, numpy_helper, shape_inference

from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.onnx.source import Array
from leakaudit.target.onnx.values import attributes

Shape = tuple[int, ...]

KNOWN = frozenset({
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Cos", "Div", "Einsum", "Elu", "Erf",
    "Exp", "Gelu", "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "LayerNormalization", "LeakyRelu", "Log",
    "LogSoftmax", "MatMul", "MaxPool", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "ReduceMean", "ReduceSum", "Relu",
    "Selu", "Sigmoid", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
_BROADCASTS_BY_AXIS = 7
"""Opset before which arithmetic takes an axis to broadcast from, by definition of ONNX."""
_FEW = 64
"""Entries of a constant up to which onnx is told its values: axes and shapes, not weights; chosen."""


def inferred_shape(node: NodeProto, opset: int, inputs: Sequence[Shape | Array | None]) -> Shape | None:
    """The shape of the one result of a node, or ``None`` where torch must be asked.

    Args:
        node: The node.
        opset: Version of the default operator set.
        inputs: For each of its inputs the shape of a tensor of real numbers, or the array of a constant.
    """
    if node.domain or node.op_type not in KNOWN or len(node.output) != 1 or opset < _BROADCASTS_BY_AXIS:
        return None
    given = [value if isinstance(value, tuple) else np.shape(value) for value in inputs if value is not None]
    if len(given) != len(inputs) or not _fits(node.op_type, attributes(node), given):
        return None
    types = {name: _type(value) for name, value in zip(node.input, inputs, strict=False) if value is not None}
    data = {
        name: numpy_helper.from_array(value, name)
        for name, value in zip(node.input, inputs, strict=False)
        if isinstance(value, np.ndarray) and value.size <= _FEW
    }
    try:
        schema = defs.get_schema(node.op_type, opset)
        found = shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)]
        )
    except (
        shape_inference.InferenceError,
        checker.ValidationError,
        defs.SchemaError,
        ValueError,
        RuntimeError,
    ) as error:
        refuse_exhaustion(error)
        return None  # torch says what is wrong
    return _static(found.get(node.output[0]))


def _type(value: Shape | Array) -> TypeProto:
    if isinstance(value, np.ndarray):
        return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    return helper.make_tensor_type_proto(TensorProto.FLOAT, value)


def _static(found: TypeProto | None) -> Shape | None:
    """The shape of a tensor of real numbers all of whose sizes are known, and positive."""
    if found is None or found.tensor_type.elem_type != TensorProto.FLOAT or not found.tensor_type.HasField("shape"):
        return None
    sizes = tuple(size.dim_value for size in found.tensor_type.shape.dim)
    return sizes if all(size > 0 for size in sizes) else None


def _fits(kind: str, given: Mapping[str, Any], shapes: Sequence[Shape]) -> bool:
    """Whether an operator surely runs on inputs of these shapes, as far as onnx does not check it."""
    if kind == "Conv":
        return _convolves(given, *shapes)
    if kind in ("MaxPool", "AveragePool"):
        return not given.get("ceil_mode") and _slides(given, shapes[0], given["kernel_shape"])
    if kind == "Gemm":
        return _multiplies(given, *shapes)
    if kind == "BatchNormalization":
        return len(shapes) == 5 and len(shapes[0]) > 1 and all(shape == shapes[0][1:2] for shape in shapes[1:])
    if kind == "LayerNormalization":
        axis = given.get("axis", -1)
        return axis in range(-len(shapes[0]), len(shapes[0])) and all(shape == shapes[0][axis:] for shape in shapes[1:])
    if kind == "Einsum":
        return _sums(str(given.get("equation", "")).replace(" ", ""), shapes)
    if kind == "Clip":
        return all(shape in ((), (1,)) for shape in shapes[1:])
    return True


def _slides(given: Mapping[str, Any], x: Shape, window: Sequence[int]) -> bool:
    """Whether a window over one to three axes finds a place: onnx rounds towards zero, and would give one anyway."""
    axes = len(window)
    if not 1 <= axes <= 3 or len(x) != axes + 2 or given.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return False
    pads, dilations = given.get("pads") or [0] * 2 * axes, given.get("dilations") or [1] * axes
    padded = [size + pads[axis] + pads[axis + axes] for axis, size in enumerate(x[2:])]
    return all(size > (side - 1) * step for size, side, step in zip(padded, window, dilations, strict=True))


def _convolves(given: Mapping[str, Any], x: Shape, weight: Shape, bias: Shape | None = None) -> bool:
    groups = given.get("group", 1)
    return (
        len(x) == len(weight)
        and x[1] == weight[1] * groups
        and weight[0] % groups == 0
        and bias in (None, weight[:1])
        and tuple(given.get("kernel_shape", weight[2:])) == weight[2:]
        and _slides(given, x, weight[2:])
    )


def _sums(equation: str, shapes: Sequence[Shape]) -> bool:
    """Whether an equation gives every axis a letter of its own, the same size wherever it stands, and a result."""
    read, arrow, result = equation.partition("->")
    terms = read.split(",")
    if not arrow or [len(term) for term in terms] != [len(shape) for shape in shapes]:
        return False
    if not all(term.isalpha() and len({*term}) == len(term) for term in terms) or len({*result}) != len(result):
        return False
    sizes = {
        (letter, size)
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    letters = {letter for letter, _ in sizes}
    return len(sizes) == len(letters) and {*result} <= letters


def _multiplies(given: Mapping[str, Any], a: Shape, b: Shape, c: Shape | None = None) -> bool:
    if len(a) != 2 or len(b) != 2:
        return False
    rows, inner = a[::-1] if given.get("transA") else a
    depth, columns = b[::-1] if given.get("transB") else b
    return inner == depth and c in (None, (), (1,), (columns,), (1, columns), (rows, columns))
