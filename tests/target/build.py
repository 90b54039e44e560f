"""Hand-made ONNX models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper


def tensor(name: str, *shape: int, seed: int = 0) -> TensorProto:
    """A float32 tensor of small random numbers."""
    values = np.random.default_rng(seed + len(name)).standard_normal(shape) * 0.3
    return numpy_helper.from_array(values.astype(np.float32), name)


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    tensors: Sequence[TensorProto] = (),
    *,
    shape: Sequence[int | str] = ("N", 12),
    output: str = "y",
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    **graph: Any,
) -> Path:
    """Write a model with the input ``x``."""
    result = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [
            helper.make_tensor_value_info(
                output, TensorProto.DOUBLE if kind == TensorProto.DOUBLE else TensorProto.FLOAT, None
            )
        ],
        list(tensors),
    )
    model = helper.make_model(result, opset_imports=[helper.make_opsetid("", opset)], **graph)
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def linear(
    source: str = "x", target: str = "y", width: int = 12, classes: int = 4
) -> tuple[list[NodeProto], list[TensorProto]]:
    """A linear layer."""
    node = helper.make_node("Gemm", [source, "weight", "bias"], [target], "gemm", transB=1)
    return [node], [tensor("weight", classes, width), tensor("bias", classes)]
