"""Shapes that onnx infers are those that our operators give; what would not run is left to torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from leakaudit.target.onnx.inferred import inferred_shape
from leakaudit.target.onnx.ops import find_own
from leakaudit.target.onnx.registry import since_version
from leakaudit.target.onnx.values import attributes

OPSET = 17
Shape = tuple[int, ...]
RUNS: list[tuple[str, list[Shape], dict[str, Any]]] = [
    ("Conv", [(2, 4, 9, 8), (6, 2, 3, 2), (6,)], {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [(1, 3, 10), (5, 3, 3)], {"dilations": [2], "kernel_shape": [3]}),
    ("Conv", [(1, 2, 5, 5, 5), (4, 2, 2, 2, 2)], {}),
    ("MaxPool", [(2, 3, 9, 9)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [(2, 3, 7, 8)], {"kernel_shape": [2, 3], "strides": [2, 1]}),
    ("GlobalAveragePool", [(2, 3, 7, 8)], {}),
    ("Gemm", [(2, 5), (7, 5), (7,)], {"transB": 1}),
    ("Gemm", [(5, 2), (5, 7)], {"transA": 1, "alpha": 0.5}),
    ("MatMul", [(2, 1, 4, 5), (3, 5, 6)], {}),
    ("MatMul", [(4, 5), (5,)], {}),
    ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {}),
    ("LayerNormalization", [(2, 3, 4), (4,), (4,)], {}),
    ("Concat", [(2, 3, 4), (2, 1, 4)], {"axis": 1}),
    ("Softmax", [(2, 3, 4)], {"axis": -1}),
    ("ReduceMean", [(2, 3, 4)], {"axes": [1], "keepdims": 0}),
    ("Add", [(2, 1, 4), (3, 1)], {}),
    ("Relu", [(2, 3)], {}),
    ("Einsum", [(2, 3, 4, 5), (2, 3, 6, 5)], {"equation": "b h i d, b h j d -> b h i j"}),
    ("Einsum", [(4, 5)], {"equation": "ij->j"}),
]
OTHERS: list[tuple[str, list[Shape], dict[str, Any]]] = [
    ("Conv", [(2, 4, 9, 8), (6, 3, 3, 2)], {}),  # channels
    ("Conv", [(2, 4, 9, 8), (6, 4, 3, 2), (5,)], {}),  # bias
    ("Conv", [(2, 4, 9, 8), (6, 4, 3, 3)], {"kernel_shape": [5, 5]}),
    ("Conv", [(2, 4, 2, 2), (6, 4, 3, 3)], {}),  # nothing is left
    ("Gemm", [(2, 5), (4, 7)], {}),
    ("MatMul", [(2, 5), (4, 7)], {}),
    ("BatchNormalization", [(2, 3, 4), (3,), (4,), (3,), (3,)], {}),
    ("Add", [(2, 3), (4,)], {}),
    ("MaxPool", [(2, 3, 9, 9)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("Reshape", [(2, 3), (6,)], {}),
    ("MaxPool", [(2, 3, 1, 1)], {"kernel_shape": [2, 2], "strides": [2, 2]}),  # no place, at any stride
    ("AveragePool", [(2, 3, 4, 4)], {"kernel_shape": [7, 7], "strides": [7, 7]}),
    ("Conv", [(1, 3, 8, 8), (4, 3, 11, 11)], {"strides": [4, 4]}),
    ("Conv", [(1, 3, 4, 4), (4, 3, 3, 3)], {"strides": [2, 2], "dilations": [2, 2]}),
    ("MaxPool", [(1, 2, 4, 4, 4, 4)], {"kernel_shape": [2, 2, 2, 2]}),  # torch has none over four axes
    ("LayerNormalization", [(2, 3, 4), ()], {"axis": 5}),
    ("Clip", [(3, 3), (4, 3, 3)], {}),
    ("Einsum", [(2, 3), (4, 5)], {"equation": "ij,jk->ik"}),  # another size under the same letter
    ("Einsum", [(2, 3), (1, 5)], {"equation": "ij,jk->ik"}),  # torch would spread it
    ("Einsum", [(3, 3)], {"equation": "ii->i"}),
    ("Einsum", [(2, 3)], {"equation": "ij->ik"}),
    ("Einsum", [(2, 3)], {"equation": "ij"}),
    ("Einsum", [(2, 3, 4)], {"equation": "...j->..."}),
    ("Einsum", [(2, 3)], {}),
]


def _node(kind: str, count: int, given: dict[str, Any]) -> Any:
    return helper.make_node(kind, [f"x{i}" for i in range(count)], ["y"], **given)


@pytest.mark.parametrize(("kind", "shapes", "given"), RUNS, ids=[f"{i}-{run[0]}" for i, run in enumerate(RUNS)])
def test_it_is_the_shape_of_our_operator(kind: str, shapes: list[Shape], given: dict[str, Any]) -> None:
    node = _node(kind, len(shapes), given)
    own = find_own(kind, since_version(kind, OPSET))
    assert own is not None
    result = own.run(*[torch.rand(shape) for shape in shapes], **attributes(node))
    assert inferred_shape(node, OPSET, shapes) == tuple(result.shape)


@pytest.mark.parametrize(("kind", "shapes", "given"), OTHERS, ids=[f"{i}-{run[0]}" for i, run in enumerate(OTHERS)])
def test_where_a_shape_is_no_matter_of_course_torch_is_asked(
    kind: str, shapes: list[Shape], given: dict[str, Any]
) -> None:
    assert inferred_shape(_node(kind, len(shapes), given), OPSET, shapes) is None


def test_constants_count_with_their_type() -> None:
    node = _node("Add", 2, {})
    assert inferred_shape(node, OPSET, [(2, 3), np.zeros((3,), np.float32)]) == (2, 3)
    assert inferred_shape(node, OPSET, [(2, 3), np.zeros((3,), np.int64)]) is None  # torch promotes, onnx does not


COMPILED = """
import sys
import torch
from leakaudit.target.onnx.ops.shapes import expand, gather
x = torch.empty((2, 1, 5), device="meta")
assert gather(x, torch.empty((3, 2), dtype=torch.int64, device="meta"), axis=-1).shape == (2, 1, 3, 2)
assert expand(x, [4, 1]).shape == (2, 4, 5)
print(sorted({"torch._dynamo", "sympy"} & {*sys.modules}))
"""


def test_places_and_spreading_without_values_import_no_compiler() -> None:
    """An attention's position table is looked up in every vision transformer."""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
