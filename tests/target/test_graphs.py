"""Hand-made graphs against an independent implementation of ONNX, and their second derivative."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from leakaudit.errors import ModelError
from leakaudit.target import Target, load
from tests.target import build
from tests.target.graphs import GRAPHS, Graph, ints, kernel, node, values


def write(path: Path, graph: Graph) -> Path:
    return build.write(
        path, graph.nodes, graph.tensors, shape=graph.shape, opset=graph.opset, **graph.options
    )


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """What onnxruntime computes, or onnx itself where that is missing or does not know such old operators."""
    model = onnx.load(str(path))
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    if model.opset_import[0].version >= 7 and importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x.astype(kind)})[0]
    return ReferenceEvaluator(model).run(None, {"x": x.astype(kind)})[0]


def second_derivative_error(target: Target, x: torch.Tensor) -> float:
    """Relative error of d/dx of the squared gradient norm along a random direction, against central differences."""
    target.module.double()
    labels = torch.arange(len(x)) % target.classes

    def squared(inputs: torch.Tensor) -> torch.Tensor:
        grads = target.gradient(inputs, labels, create_graph=True)
        return torch.stack([g.square().sum() for g in grads.values()]).sum()

    x = x.double().requires_grad_()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    (slope,) = torch.autograd.grad(squared(x), x)
    exact, step = float((slope * direction).sum()), 1e-6
    measured = float((squared(x + step * direction) - squared(x - step * direction)).detach()) / (2 * step)
    return abs(exact - measured) / max(abs(exact), 1e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(tmp_path: Path, name: str) -> None:
    graph = GRAPHS[name]()
    path = write(tmp_path / "m.onnx", graph)
    target = load(path)
    assert set(target.parameters) == graph.trained
    x = torch.rand(2, *graph.sample, generator=torch.Generator().manual_seed(4)) * 2 - 1
    other = path if graph.twin is None else write(tmp_path / "twin.onnx", graph.twin)
    expected = reference(other, x.numpy()).reshape(2, -1)
    actual = target.logits(x).detach()
    if target.fidelity and any(note.id == "LA910" for note in target.fidelity):
        actual = torch.log_softmax(actual, 1)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=2e-5, atol=2e-5)
    assert second_derivative_error(target, x) < 1e-4
