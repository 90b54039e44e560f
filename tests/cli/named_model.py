"""A model in which every free text is a name that is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(path: Path, names: list[str]) -> Path:
    """A linear model in which every free text is one of these, made unique by its number."""
    given = iter([f"{text}{number}" for number, text in enumerate(names * 20)])
    x, flat, hidden, y, w, b, v = (next(given) for _ in range(7))
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array((rng.normal(size=shape) / 20).astype(np.float32), tensor)
        for tensor, shape in ((w, (432, 6)), (b, (6,)), (v, (6, 5)))
    ]
    nodes = [
        helper.make_node("Flatten", [x], [flat], next(given), doc_string=next(given)),
        helper.make_node("Gemm", [flat, w, b], [hidden], next(given)),
        helper.make_node("MatMul", [hidden, v], [y], next(given)),
    ]
    graph = helper.make_graph(
        nodes, next(given), [helper.make_tensor_value_info(x, TensorProto.FLOAT, [next(given), 3, 12, 12])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 5])], tensors, doc_string=next(given),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name=next(given))
    model.producer_version, model.doc_string, model.domain = next(given), next(given), next(given)
    model.ir_version = 8
    onnx.save(model, path)
    return path
