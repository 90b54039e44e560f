"""Small model files made after public reports, with the right value: the cases if they are there, and their likes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from leakaudit.document.verify import check_model
from leakaudit.errors import ModelError
from leakaudit.target import Target, load, reach
from leakaudit.target.archives import _fill
from leakaudit.target.hashing import hash_model
from leakaudit.target.onnx import load as reading
from tests.target import build
from tests.target.graphs import ints, values


@pytest.fixture
def cases() -> Path:
    data = os.environ.get("LEAKAUDIT_DATA")
    folder = (Path(data) if data else Path(__file__).parents[2].parent / "shared" / "data").parent / "cases" / "onnx"
    if not folder.is_dir():
        pytest.skip(f"the cases are not there: {folder}")
    return folder


def ids(target: Target) -> set[str]:
    return {note.id for note in target.fidelity}


TRAINED = {
    "groupnorm_op17": {"net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias", "net.4.weight", "net.4.bias"},
    "instancenorm_noaffine": {"net.0.weight", "net.0.bias", "net.4.weight", "net.4.bias"},
    "scalars": {"g", "t", "s", "a.weight", "a.bias", "f.weight", "f.bias"},
    "keras_binary_head": {"W1", "b1", "W3", "b3"},
    "skl_mlp_binary": {"coefficient", "intercepts", "coefficient1", "intercepts1"},
    "skl_mlp": {"coefficient", "intercepts", "coefficient1", "intercepts1"},
    "softmax_hand": {"a.weight", "a.bias", "f.weight", "f.bias"},
    "softmax_clamped": {"a.weight", "a.bias", "f.weight", "f.bias"},
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_set_of_trained_tensors(cases: Path, name: str) -> None:
    assert set(load(cases / f"{name}.onnx").parameters) == TRAINED[name]


def test_a_shared_gradient_of_a_groupnorm_file_has_its_tensors(cases: Path) -> None:
    shared = np.load(cases / "groupnorm_op17_u.npz")
    named = {key: shared[key].shape for key in shared.files}
    target = load(cases / "groupnorm_op17.onnx")
    assert {key: tuple(value.shape) for key, value in target.parameters.items()} == named


def test_the_update_of_a_file_with_scalars(cases: Path) -> None:
    batch, shared = np.load(cases / "scalars_batch.npz"), np.load(cases / "scalars_update.npz")
    keys = sorted(batch.files)
    x, y = (torch.from_numpy(batch[key]) for key in sorted(keys, key=lambda key: -batch[key].ndim))
    target = load(cases / "scalars.onnx")
    for key, value in target.gradient(x, y.long()).items():
        np.testing.assert_allclose(value.numpy(), shared[key], rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["keras_binary_head", "skl_mlp_binary"])
def test_two_classes_of_one_sigmoid_are_binary(cases: Path, name: str) -> None:
    target = load(cases / f"{name}.onnx")
    assert target.binary
    assert "LA910" in ids(target)


def softmax_of(path: Path, x: Tensor) -> Tensor:
    import onnx.reference

    model = onnx.load(str(path))
    (result, *_) = onnx.reference.ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    return torch.from_numpy(result)


@pytest.mark.parametrize("name", ["softmax_hand", "softmax_clamped"])
def test_logits_in_front_of_a_spelt_softmax(cases: Path, name: str) -> None:
    target = load(cases / f"{name}.onnx")
    x = torch.rand(4, *target.image_shape)
    assert "LA910" in ids(target)
    torch.testing.assert_close(torch.softmax(target.logits(x), 1), softmax_of(cases / f"{name}.onnx", x))
    assert float(target.logits(x).detach().min()) < 0


NOTED = {
    "bnfold_2_legacy": ("LA901", "onnx::Conv_27"),
    "bnfold_3_dynamo": ("LA901", "node_Conv_27"),
    "keras3_cnn": ("LA901", "onnx::"),
    "cosine_head_fold": ("LA900", "onnx::Clip_27"),
    "vit_dynamo": ("LA900", "val_7"),
    "learned_input_affine": ("LA914", "g, b"),
    "visual_prompt": ("LA914", "p:"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_the_file_is_not_is_said(cases: Path, name: str) -> None:
    identifier, named = NOTED[name]
    target = load(cases / f"{name}.onnx")
    note = next(note for note in target.fidelity if note.id == identifier)
    assert named in note.message
    assert note.hint


def test_moving_means_and_merged_scales(cases: Path) -> None:
    assert "onnx::Sub_134" not in load(cases / "keras3_cnn.onnx").parameters
    vit = load(cases / "vit_dynamo.onnx")
    assert {"e.norm1.weight", "e.norm1.weight#1", "e.norm1.bias", "e.norm1.bias#2"} <= set(vit.parameters)
    assert "LA907" in ids(vit)


@pytest.mark.parametrize(("name", "patterns"), [("learned_input_affine", ["g", "b"]), ("visual_prompt", ["p"])])
def test_tensors_at_the_input_are_trained_if_asked(cases: Path, name: str, patterns: Sequence[str]) -> None:
    target = load(cases / f"{name}.onnx", trained=patterns)
    assert set(patterns) <= set(target.parameters)
    gradient = target.gradient(torch.rand(2, *target.image_shape), torch.tensor([0, 1]))
    assert all(bool(gradient[key].any()) for key in patterns)


def test_positions_as_an_input(cases: Path) -> None:
    target = load(cases / "tok_pos.onnx", image_shape=(1, 1, 6))
    assert any("position_ids" in note.message for note in target.fidelity if note.id == "LA923")
    ids_ = torch.arange(12).reshape(2, 1, 1, 6)
    tensors = dict(target.module.named_parameters())
    hidden = tensors["e.weight"][ids_.reshape(2, 6)] + tensors["p.weight"][:6]
    mean = torch.tanh(hidden @ tensors["l.weight"].t() + tensors["l.bias"]).mean(1)
    torch.testing.assert_close(target.logits(ids_), mean @ tensors["f.weight"].t() + tensors["f.bias"])


def test_argmax_is_refused_by_its_node(cases: Path) -> None:
    with pytest.raises(ModelError, match=r"not differentiable, cut off by node .*ArgMax"):
        load(cases / "argmax_only.onnx")


def test_names_of_opacus_are_stripped(cases: Path) -> None:
    weights = torch.load(cases / "sd__module.pt", weights_only=True)
    module = nn.Module()
    for name, value in weights.items():
        holder = module
        *path, leaf = name.removeprefix("_module.").split(".")
        for part in path:
            if not hasattr(holder, part):
                holder.add_module(part, nn.Module())
            holder = getattr(holder, part)
        holder.register_parameter(leaf, nn.Parameter(torch.zeros_like(value)))
    _fill(module, weights, cases / "sd__module.pt", "test")
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, weights[f"_module.{name}"])


# The same kinds on a bare machine.


def test_a_bias_of_one_number_is_trained(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["z0"]), helper.make_node("Add", ["z0", "b"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]  # fmt: skip
    target = load(build.write(tmp_path / "m.onnx", nodes, [build.tensor("W", 12, 1), values("b", [0.3])]))
    assert set(target.parameters) == {"W", "b"}
    x = torch.rand(3, *target.image_shape)
    y = torch.tensor([0, 1, 1])
    p = torch.sigmoid(x.flatten(1) @ target.parameters["W"] + 0.3).detach()
    torch.testing.assert_close(target.gradient(x, y)["b"], (p[:, 0] - y).mean()[None])


def test_a_number_that_scales_is_no_bias(tmp_path: Path) -> None:
    nodes, tensors = build.linear(target="z")
    nodes.append(helper.make_node("Mul", ["z", "two"], ["y"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, [*tensors, values("two", [2.0])]))
    assert set(target.parameters) == {"weight", "bias"}


def test_probabilities_by_class_of_scikit_learn(tmp_path: Path) -> None:
    nodes, tensors = build.linear(target="z")
    nodes += [
        helper.make_node("Softmax", ["z"], ["p"]),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]),
    ]
    path = build.write(tmp_path / "m.onnx", nodes, tensors)
    model = onnx.load(str(path))
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    path.write_bytes(model.SerializeToString())
    target = load(path)
    x = torch.rand(2, *target.image_shape)
    weight, bias = target.parameters["weight"], target.parameters["bias"]
    torch.testing.assert_close(target.logits(x), x.flatten(1) @ weight.t() + bias)


def test_numbers_put_into_a_tensor_of_the_file(tmp_path: Path) -> None:
    """As the masks of shifted windows, whose parts torch's default exporter stores as initialisers."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("ScatterND", ["fresh", "at", "W2"], ["put"]),
        helper.make_node("MatMul", ["h", "put"], ["y"]),
    ]  # fmt: skip
    tensors = [build.tensor("W", 12, 4), build.tensor("W2", 2, 3), values("fresh", np.ones((4, 3)))]
    target = load(build.write(tmp_path / "m.onnx", nodes, [*tensors, values("at", [[2], [0]], np.int64)]))
    x, put = torch.rand(2, *target.image_shape), torch.ones(4, 3)
    put[[2, 0]] = target.parameters["W2"].detach()
    torch.testing.assert_close(target.logits(x), x.flatten(1) @ target.parameters["W"] @ put)


def test_a_mean_spelt_out_is_not_trained(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Sub", ["h", "mean"], ["c"]),
        helper.make_node("Add", ["var", "eps"], ["v"]), helper.make_node("Sqrt", ["v"], ["s"]),
        helper.make_node("Div", ["c", "s"], ["d"]), helper.make_node("Mul", ["d", "gamma"], ["e"]),
        helper.make_node("Add", ["e", "beta"], ["y"]),
    ]  # fmt: skip
    tensors = [build.tensor("W", 12, 4), *(build.tensor(n, 4) for n in ("mean", "gamma", "beta"))]
    tensors += [values("var", [0.5, 1.0, 2.0, 1.5]), values("eps", 1e-5)]
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors))
    assert set(target.parameters) == {"W", "gamma", "beta"}
    assert "LA901" in ids(target)


def _trees(tmp_path: Path) -> Path:
    """Two rules as matrices, as converters write tree ensembles."""
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["a"]), helper.make_node("Less", ["a", "B"], ["l"]),
        helper.make_node("Cast", ["l"], ["c"], to=1), helper.make_node("MatMul", ["c", "C"], ["d"]),
        helper.make_node("Add", ["d", "D"], ["y"]),
    ]  # fmt: skip
    tensors = [build.tensor("A", 12, 6), build.tensor("B", 6), build.tensor("C", 6, 4), build.tensor("D", 4)]
    return build.write(tmp_path / "m.onnx", nodes, tensors)


def test_trees_as_matrices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Less") as caught:
        load(_trees(tmp_path))
    assert caught.value.exit_code == 3


def test_a_refused_file_is_asked_once_which_tensors_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = [], reach.silent_tensors

    def counted(*args: Any) -> list[str]:
        asked.append(ask(*args))
        return asked[-1]

    for place in (reach, reading):
        monkeypatch.setattr(place, "silent_tensors", counted)
    with pytest.raises(ModelError, match=r"Less"):
        load(_trees(tmp_path))
    assert asked == [["A"]]


def test_a_last_layer_that_begins_at_zero_is_no_tree(tmp_path: Path) -> None:
    """As of a vision transformer, whose file compares shapes on the way."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Equal", ["s", "sizes"], ["e"]),
        helper.make_node("Where", ["e", "s", "sizes"], ["into"]), helper.make_node("Reshape", ["x", "into"], ["f"]),
        helper.make_node("MatMul", ["f", "A"], ["a"]), helper.make_node("MatMul", ["a", "zeros"], ["y"]),
    ]  # fmt: skip
    tensors = [build.tensor("A", 12, 6), values("zeros", np.zeros((6, 4))), ints("sizes", 0, 12)]
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors))
    assert "LA931" in ids(target)
    assert set(target.parameters) == {"A", "zeros"}


def test_a_module_of_comparisons_is_refused() -> None:
    class Trees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(12, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.a(x.flatten(1)) > 0).float())

    with pytest.raises(ModelError, match=r"through .*gt.* alone"):
        load(Trees(), image_shape=(3, 2, 2))


def test_an_update_that_ignores_the_input_is_said() -> None:
    class Saturated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(12, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(1e-6 * self.a(x.flatten(1)))

    assert "LA933" in ids(load(Saturated(), image_shape=(3, 2, 2)))
    assert "LA933" not in ids(load(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), image_shape=(3, 2, 2)))


def test_forecasts_and_improbable_class_counts(tmp_path: Path) -> None:
    nodes, tensors = build.linear(target="z")
    nodes.append(helper.make_node("Unsqueeze", ["z", "last"], ["y"]))
    with pytest.raises(ModelError, match="forecast"):
        load(build.write(tmp_path / "m.onnx", nodes, [*tensors, ints("last", 2)]))
    with pytest.raises(ModelError, match="forecast"):
        load(nn.Sequential(nn.Flatten(), nn.Linear(12, 24), nn.Unflatten(1, (24, 1))), image_shape=(3, 2, 2))
    many = nn.Sequential(nn.Flatten(), nn.Linear(12, 21_125))
    with pytest.raises(ModelError, match="21125 numbers"):
        load(many, image_shape=(3, 2, 2))
    assert load(many, image_shape=(3, 2, 2), loss="cross-entropy").classes == 21_125


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    nodes, tensors = build.linear()
    path = build.write(tmp_path / "m.onnx", nodes, tensors)
    inside = load(path)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    outside = load(path)
    assert outside.sha256 == hash_model(path)
    x = torch.rand(2, *outside.image_shape)
    torch.testing.assert_close(outside.logits(x), inside.logits(x))
    report = tmp_path / "report.json"
    report.write_text(f'{{"schema_version": 1, "target": {{"sha256": "{outside.sha256}"}}}}')
    assert check_model(report, path).holds
    data = tmp_path / "m.onnx.data"
    data.write_bytes(np.random.default_rng(0).standard_normal(data.stat().st_size // 4).astype(np.float32).tobytes())
    assert not torch.allclose(load(path).logits(x), outside.logits(x))
    assert load(path).sha256 != outside.sha256
    assert not check_model(report, path).holds


def test_positions_and_masks_of_hand(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["w"]),
        helper.make_node("Gather", ["places", "position_ids"], ["p"]),
        helper.make_node("Add", ["w", "p"], ["h"]),
        helper.make_node("ReduceMean", ["h"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "W"], ["y"]),
    ]
    tensors = [build.tensor("words", 20, 4), build.tensor("places", 8, 4), build.tensor("W", 4, 3)]
    names = ("input_ids", "position_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 5]) for name in names]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    target = load(tmp_path / "m.onnx")
    words, places, weight = (torch.from_numpy(numpy_helper.to_array(t).copy()) for t in tensors)
    ids_ = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    expected = F.linear((words[ids_] + places[:5]).mean(1), weight.t())
    torch.testing.assert_close(target.logits(ids_.reshape(2, 1, 1, 5)), expected)
