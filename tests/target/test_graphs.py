"""Hand-made graphs against an independent implementation of ONNX, and their second derivative."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from leakaudit.errors import ModelError
from leakaudit.target import load
from tests.target import build
from tests.target.graphs import GRAPHS, Graph, ints, kernel, node, second_derivative_error, values


def write(path: Path, graph: Graph) -> Path:
    return build.write(path, graph.nodes, graph.tensors, shape=graph.shape, opset=graph.opset, **graph.options)


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """What onnxruntime computes, or onnx itself where that is missing or does not know such old operators."""
    model = onnx.load(str(path))
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    if model.opset_import[0].version >= 7 and importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x.astype(kind)})[0]
    return ReferenceEvaluator(model).run(None, {"x": x.astype(kind)})[0]


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


def test_initialisers_listed_as_inputs(tmp_path: Path) -> None:
    graph = GRAPHS["conv_valid"]()
    path = write(tmp_path / "m.onnx", graph)
    model = onnx.load(str(path))
    for tensor in graph.tensors:
        model.graph.input.insert(0, helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    model.ir_version = 3
    onnx.save(model, str(path))
    target = load(path)
    assert set(target.parameters) == graph.trained
    assert target.image_shape == (3, 8, 8)


def test_weights_without_names_of_their_own_keep_order_and_sharing(tmp_path: Path) -> None:
    graph = GRAPHS["one_matrix_in_matmul_and_gemm"]()
    target = load(write(tmp_path / "m.onnx", graph))
    assert "LA906" in {note.id for note in target.fidelity}


@pytest.mark.parametrize("opset", [24, 25, 26])
def test_newest_operator_sets(tmp_path: Path, opset: int) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} does not know operator set {opset}")
    graph = GRAPHS["conv_lopsided"]()
    graph.opset = opset
    target = load(write(tmp_path / "m.onnx", graph))
    assert set(target.parameters) == graph.trained
    assert {note.id for note in target.fidelity} & {"LA940", "LA941"}


def test_unknown_operators_of_all_domains_are_named(tmp_path: Path) -> None:
    graph = GRAPHS["conv_valid"]()
    graph.nodes[1].input[0] = "v"
    graph.nodes[1:1] = [
        node("Det", ["h"], ["u"], "first"), node("FusedConv", ["u"], ["w1"], "second", domain="com.microsoft"),
        node("NotYetInvented", ["w1"], ["v"], "third"),
    ]  # fmt: skip
    with pytest.raises(ModelError) as caught:
        load(write(tmp_path / "m.onnx", graph))
    for word in ("3 operators", "Det", "first", "com.microsoft.FusedConv", "second", "NotYetInvented", "third"):
        assert word in caught.value.message


def _boxes() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Reshape", ["c", "to"], ["boxes"]),
        node("Reshape", ["c", "rows"], ["scores"]), node("NonMaxSuppression", ["boxes", "scores"], ["keep"]),
        node("Cast", ["keep"], ["y"], to=1),
    ]  # fmt: skip
    return Graph(nodes, [kernel("k", 4, 3, 3, 3), ints("to", 0, -1, 4), ints("rows", 0, 4, -1)], {"k"})


def _sizes(output: list[NodeProto], *tensors: TensorProto) -> Graph:
    return Graph([node("Conv", ["x", "k"], ["c"]), *output], [kernel("k", 4, 3, 3, 3), *tensors], {"k"})


OTHER = "maps of another size than the sample"
HEADS = {
    "boxes": (_boxes, "detection models are not supported yet"),
    "mask": (lambda: _sizes([node("Sigmoid", ["c"], ["y"])]), OTHER),
    "upsampled mask": (
        lambda: _sizes([node("Resize", ["c", "", "s"], ["y"])], values("s", [1, 1, 2, 2])), OTHER
    ),
    "classes per pixel": (lambda: _sizes([node("ArgMax", ["c"], ["a"], axis=1), node("Cast", ["a"], ["y"], to=1)]),
                          OTHER),
    "tokens": (lambda: _sizes([node("Reshape", ["c", "to"], ["y"])], ints("to", 0, 36, 4)), OTHER),
    "one number for all": (lambda: _sizes([node("ReduceMean", ["c"], ["y"], keepdims=0)]), OTHER),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_other_heads_than_a_classifiers_are_refused(tmp_path: Path, name: str) -> None:
    make, words = HEADS[name]
    with pytest.raises(ModelError, match=words) as caught:
        load(write(tmp_path / "m.onnx", make()))
    assert "it needs" in caught.value.hint
    assert caught.value.exit_code == 3


def test_single_logit_without_a_class_axis_is_binary(tmp_path: Path) -> None:
    nodes, tensors = build.linear(target="z", classes=1)
    nodes.append(node("Squeeze", ["z", "last"], ["y"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, [*tensors, ints("last", 1)]))
    assert target.binary
    assert target.logits(torch.rand(3, *target.image_shape)).shape == (3, 1)


def test_double_weights_are_widened_to_single(tmp_path: Path) -> None:
    target = load(write(tmp_path / "m.onnx", GRAPHS["double_weights"]()))
    assert {p.dtype for p in target.parameters.values()} == {torch.float32}
    assert numpy_helper.to_array(GRAPHS["double_weights"]().tensors[0]).dtype == np.float64
