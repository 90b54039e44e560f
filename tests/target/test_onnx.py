"""The ONNX loader on hand-made graphs: heads, layouts, roles, names, batch sizes."""

from __future__ import annotations

from math import prod
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from leakaudit.errors import ModelError, UsageError
from leakaudit.target import load
from leakaudit.target.names import torch_names
from leakaudit.target.onnx import allowance
from leakaudit.tasks.multi_label import MultiLabel
from tests.target import build


def ids(target) -> set[str]:
    return {note.id for note in target.fidelity}


@pytest.mark.parametrize("names", [
    ["conv1.weight", "conv1.bias"], ["a", "a.b", "a.b.c"], ["a..b", ".x", "y."], ["type.weight", "train", "100%"],
    ["/model/MatMul_output_0", "onnx::Conv_12", "1.weight"], ["source.weight", "program"],
])  # fmt: skip
def test_names_are_reversible_and_exact_where_possible(names: list[str]) -> None:
    chosen = torch_names(names, ("source", "program"))
    assert not {"source", "program"} & {name.split(".")[0] for name in chosen.values()}
    assert [unquote(chosen[name]) for name in names] == names
    assert len(set(chosen.values())) == len(names)
    assert torch_names(["conv1.weight", "fc/kernel:0"]) == {
        "conv1.weight": "conv1.weight",
        "fc/kernel:0": "fc/kernel:0",
    }


@pytest.mark.parametrize("head", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("behind", [[], ["Flatten"], ["Identity"]])
def test_head_is_dropped(tmp_path: Path, head: str, behind: list[str]) -> None:
    nodes, tensors = build.linear(target="logits")
    chain = ["logits", *[f"v{i}" for i in range(len(behind))], "y"]
    nodes += [helper.make_node(op, [a], [b]) for op, a, b in zip([head, *behind], chain[:-1], chain[1:], strict=True)]
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors))
    x = torch.rand(3, *target.image_shape)
    weight, bias = (torch.from_numpy(numpy_helper.to_array(t).copy()) for t in tensors)
    torch.testing.assert_close(target.logits(x), x.flatten(1) @ weight.T + bias)
    assert "LA910" in ids(target)
    assert target.classes == 4
    assert target.image_shape == (1, 1, 12)


def test_sigmoid_with_one_output_is_binary(tmp_path: Path) -> None:
    nodes, tensors = build.linear(target="logit", classes=1)
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["y"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors))
    assert target.binary
    assert target.classes == 2
    assert target.logits(torch.rand(5, *target.image_shape)).shape == (5, 1)
    assert {tuple(t.shape) for t in target.parameters.values()} == {(1, 12), (1,)}


def test_a_sigmoid_over_several_outputs_is_several_labels(tmp_path: Path) -> None:
    nodes, tensors = build.linear(target="logit")
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["y"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors))
    assert target.task == MultiLabel(target.task.outputs)
    assert target.task_evidence == f"the model ends in a sigmoid over {target.task.outputs} outputs"


@pytest.mark.parametrize(("shape", "layout", "image"), [
    (("N", 1, 6, 2), "NCHW", (1, 6, 2)), (("N", 2, 2, 3), "NHWC", (3, 2, 2)), (("N", 8, 9), "HW", (1, 8, 9)),
    (("N", 4, 3), "NLC", (3, 4)), (("N", 2, 30), "NCL", (2, 30)), (("N", 1, 2, 3, 4), "NCDHW", (1, 2, 3, 4)),
    (("N", 2, 3, 4, 1), "NDHWC", (1, 2, 3, 4)),
    (("N", 12), "flat", (1, 1, 12)), (("N", 192), "flat", (3, 8, 8)),
    ((1, 4, 3, 1), "NHWC", (1, 4, 3)), (("N", 3, 2, 2), "NCHW", (3, 2, 2)),
])  # fmt: skip
def test_layouts(tmp_path: Path, shape, layout: str, image: tuple[int, ...]) -> None:
    nodes, tensors = build.linear(source="flat", width=prod(image))
    nodes.insert(0, helper.make_node("Flatten", ["x"], ["flat"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors, shape=shape))
    assert (target.layout, target.image_shape) == (layout, image)
    x = torch.rand(2, *image)
    torch.testing.assert_close(target.to_images(target.to_native(x)), x)
    assert target.logits(x).shape == (2, 4)


def test_open_size_takes_the_given_shape(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["x", "kernel"], ["maps"], kernel_shape=[3, 3])
    nodes = [conv, helper.make_node("GlobalAveragePool", ["maps"], ["y"])]
    path = build.write(tmp_path / "m.onnx", nodes, [build.tensor("kernel", 5, 3, 3, 3)], shape=("N", 3, "H", "W"))
    assert load(path, image_shape=(3, 20, 24)).image_shape == (3, 20, 24)
    assumed = load(path)
    assert assumed.image_shape == (3, 32, 32)
    assert "LA921" in ids(assumed)
    with pytest.raises(ModelError, match="image shape"):
        load(path, image_shape=(1, 20, 24))


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.linspace(-1, 1, 48, dtype=np.float16).reshape(4, 12), "weight")
    node = helper.make_node("Gemm", ["x", "weight"], ["y"], transB=1)
    target = load(build.write(tmp_path / "m.onnx", [node], [weight], kind=TensorProto.FLOAT16))
    assert target.parameters["weight"].dtype == torch.float32
    assert "LA909" in ids(target)


def test_fixed_batch_becomes_free_where_the_graph_allows(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([2, 12], dtype=np.int64), "shape")
    nodes, tensors = build.linear(source="flat")
    nodes.insert(0, helper.make_node("Reshape", ["x", "shape"], ["flat"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, [*tensors, shape], shape=(2, 3, 2, 2)))
    assert target.batch_sizes is None
    x = torch.rand(5, 3, 2, 2)
    torch.testing.assert_close(target.logits(x)[:2], target.logits(x[:2]))


def test_a_batch_of_the_files_size_justifies_what_its_samples_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "RESULTS", 100)
    monkeypatch.setattr(allowance, "PER_WEIGHT", 0)
    nodes, tensors = build.linear(source="flat")
    nodes.insert(0, helper.make_node("Flatten", ["x"], ["flat"]))
    for batch in (1, 8):  # four numbers of four bytes for each sample
        assert load(build.write(tmp_path / "m.onnx", nodes, tensors, shape=(batch, 3, 2, 2))).classes == 4
    assert allowance.results(0, 1000, asked_by_file=True).most == allowance.FIXED * 100
    assert allowance.results(0, 1000).most == 1000 * 100
    monkeypatch.setattr(allowance, "FIXED", 1)
    with pytest.raises(ModelError, match="more than the 100 that the file justifies"):
        load(build.write(tmp_path / "m.onnx", nodes, tensors, shape=(20, 3, 2, 2)))


def test_batch_that_mixes_samples_stays_fixed(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 24], dtype=np.int64), "shape")
    back = numpy_helper.from_array(np.array([2, 12], dtype=np.int64), "back")
    nodes, tensors = build.linear(source="z")
    nodes[:0] = [
        helper.make_node("Reshape", ["x", "shape"], ["row"]),
        helper.make_node("LpNormalization", ["row"], ["unit"]),
        helper.make_node("Reshape", ["unit", "back"], ["z"]),
    ]
    target = load(build.write(tmp_path / "m.onnx", nodes, [*tensors, shape, back], shape=(2, 12)))
    assert target.batch_sizes == (2,)
    assert "LA920" in ids(target)


def test_roles_of_tensors(tmp_path: Path) -> None:
    nodes, tensors = build.linear(source="gated", target="z")
    nodes[:0] = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "mix"], ["mixed"]),
        helper.make_node("Mul", ["mixed", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low"], ["gated"]),
    ]
    nodes.append(helper.make_node("Add", ["z", "mask"], ["y"]))
    low = numpy_helper.from_array(np.float32(-3), "low")
    mask = numpy_helper.from_array(np.array([0, 0, -1e9, 0], dtype=np.float32), "mask")
    extra = [build.tensor("mean", 12), build.tensor("mix", 12, 12), build.tensor("scale", 12), low, mask]
    path = build.write(tmp_path / "m.onnx", nodes, [*tensors, *extra])
    target = load(path)
    assert set(target.parameters) == {"weight", "bias", "mix", "scale"}
    assert "LA908" in ids(target)
    assert set(load(path, frozen=["mi*"]).parameters) == {"weight", "bias", "scale"}


def test_identity_of_equal_tensors_is_copied_and_tied_weights_stay_shared(tmp_path: Path) -> None:
    ones = numpy_helper.from_array(np.ones(12, dtype=np.float32), "first.scale")
    nodes, tensors = build.linear(source="d")
    nodes[:0] = [
        helper.make_node("Identity", ["first.scale"], ["second.scale"]),
        helper.make_node("Identity", ["mix"], ["tied"]),
        helper.make_node("MatMul", ["x", "mix"], ["a"]),
        helper.make_node("Mul", ["a", "first.scale"], ["b"]),
        helper.make_node("MatMul", ["b", "tied"], ["c"]),
        helper.make_node("Mul", ["c", "second.scale"], ["d"]),
    ]
    target = load(build.write(tmp_path / "m.onnx", nodes, [*tensors, ones, build.tensor("mix", 12, 12)]))
    assert set(target.parameters) == {"weight", "bias", "first.scale", "second.scale", "mix"}
    assert {"LA906", "LA907"} <= ids(target)


def test_several_outputs(tmp_path: Path) -> None:
    nodes, tensors = build.linear()
    nodes.append(helper.make_node("MatMul", ["x", "other"], ["z"]))
    path = build.write(tmp_path / "m.onnx", nodes, [*tensors, build.tensor("other", 12, 7)])
    import onnx

    model = onnx.load(str(path))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 7]))
    onnx.save(model, str(path))
    assert load(path).classes == 4
    assert "LA911" in ids(load(path))
    other = load(path, output="z")
    assert (other.classes, set(other.parameters)) == (7, {"other"})
    with pytest.raises(UsageError, match="no output 'w'"):
        load(path, output="w")


def test_dropout_node_and_reinsertion(tmp_path: Path) -> None:
    from leakaudit.target.dropout import dropout_layers, injected_masks

    nodes, tensors = build.linear(source="h")
    nodes[:0] = [helper.make_node("Relu", ["x"], ["r"], "act"), helper.make_node("Dropout", ["r"], ["h", "m"], "drop")]
    path = build.write(tmp_path / "m.onnx", nodes, tensors)
    target = load(path, mode="train", dropout={"act": 0.25})
    layers = dropout_layers(target.module)
    assert {name: layer.p for name, layer in layers.items()} == {"act": 0.25, "drop": 0.5}
    x = torch.rand(3, *target.image_shape)
    with injected_masks(target.module, {"act": torch.ones(3, 12) * 0.75, "drop": torch.ones(3, 12) * 0.5}):
        injected = target.logits(x)
    torch.testing.assert_close(injected, load(path).logits(x))
    with pytest.raises(UsageError, match="no node 'nothing'"):
        load(path, dropout={"nothing": 0.5})


def test_batchnorm_follows_the_mode(tmp_path: Path) -> None:
    names = ("scale", "shift", "mean", "variance")
    numbers = zip(names, (1.5, 0.2, 0.3, 2), strict=True)
    values = [numpy_helper.from_array(np.full(12, v, dtype=np.float32), n) for n, v in numbers]
    nodes, tensors = build.linear(source="n")
    nodes.insert(0, helper.make_node("BatchNormalization", ["x", *names], ["n"]))
    path = build.write(tmp_path / "m.onnx", nodes, [*tensors, *values])
    x = torch.rand(6, 3, 2, 2)
    layer = torch.nn.BatchNorm1d(12)
    running = {"running_mean": torch.full((12,), 0.3), "running_var": torch.full((12,), 2.0)}
    trained = {"weight": torch.full((12,), 1.5), "bias": torch.full((12,), 0.2)}
    layer.load_state_dict(trained | running, strict=False)
    weight, bias = (torch.from_numpy(numpy_helper.to_array(t).copy()) for t in tensors)
    for mode in ("eval", "train"):
        target = load(path, mode=mode)
        assert set(target.parameters) == {"weight", "bias", "scale", "shift"}
        expected = layer.train(mode == "train")(x.flatten(1)) @ weight.T + bias
        torch.testing.assert_close(target.logits(x), expected)


def test_recorded_mapped_and_differentiated_twice(tmp_path: Path) -> None:
    nodes, tensors = build.linear(source="h")
    nodes.insert(0, helper.make_node("Tanh", ["x"], ["h"]))
    target = load(build.write(tmp_path / "m.onnx", nodes, tensors))
    x, y = torch.rand(3, *target.image_shape), torch.tensor([0, 1, 3])

    def match(inputs: torch.Tensor) -> torch.Tensor:
        grads = target.gradient(inputs, y, create_graph=True)
        total = torch.stack([g.square().sum() for g in grads.values()]).sum()
        return torch.autograd.grad(total, inputs)[0]

    expected = match(x.clone().requires_grad_())
    program = make_fx(match)(x.clone().requires_grad_())
    torch.testing.assert_close(program(x.clone().requires_grad_()).detach(), expected)
    parameters = {name: tensor.detach() for name, tensor in target.parameters.items()}
    each = vmap(grad(lambda p, a, b: target.loss(a[None], b[None], p)), in_dims=(None, 0, 0))(parameters, x, y)
    for name, value in target.gradient(x, y).items():
        torch.testing.assert_close(each[name].mean(0), value)


def test_wrong_converter_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.target.onnx import registry

    nodes, tensors = build.linear(source="h")
    nodes.insert(0, helper.make_node("Tanh", ["x"], ["h"]))
    path = build.write(tmp_path / "m.onnx", nodes, tensors)
    load(path)
    monkeypatch.setitem(registry.OPERATORS, "Tanh", [registry.Operator(torch.sigmoid, 1)])
    with pytest.raises(ModelError, match="not imported faithfully"):
        load(path)


def test_missing_operators_are_all_named(tmp_path: Path) -> None:
    nodes, tensors = build.linear(source="b")
    nodes[:0] = [helper.make_node("Det", ["x"], ["a"], "first"), helper.make_node("Hardmax", ["a"], ["b"], "second")]
    with pytest.raises(ModelError) as caught:
        load(build.write(tmp_path / "m.onnx", nodes, tensors))
    for part in ("Det", "first", "Hardmax", "second", "2 operators"):
        assert part in caught.value.message


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(UsageError, match="not a file"):
        load(path)
    path.write_text("this is no model")
    with pytest.raises(ModelError, match="text"):
        load(path)
    content = build.write(path, *build.linear()).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="truncated"):
        load(path)


def _quantised() -> tuple[list, list]:
    nodes, tensors = build.linear(source="d")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    chain = [("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "d")]
    return [*(helper.make_node(op, [a, "scale"], [b]) for op, a, b in chain), *nodes], [*tensors, scale]


def _sign() -> tuple[list, list]:
    nodes, tensors = build.linear(target="z")
    return [*nodes, helper.make_node("Sign", ["z"], ["y"])], tensors


REFUSED = {
    "no trainable tensors": (([helper.make_node("Relu", ["x"], ["y"])], []), {}),
    "one score per class and sample": (
        ([helper.make_node("Gather", ["w", "x"], ["y"])], [build.tensor("w", 12, 4)]),
        {"kind": TensorProto.INT64},
    ),
    "quantised": (_quantised(), {}),
    "surrogate": (_sign(), {}),
    "maps of another size": (
        ([helper.make_node("Conv", ["x", "k"], ["y"])], [build.tensor("k", 4, 3, 3, 3)]),
        {"shape": (1, 3, 8, 8)},
    ),
    "rank 6": (
        ([helper.make_node("MatMul", ["x", "k"], ["y"])], [build.tensor("k", 2, 4)]),
        {"shape": (1, 2, 2, 2, 2, 2)},
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_with_the_cause(tmp_path: Path, reason: str) -> None:
    (nodes, tensors), options = REFUSED[reason]
    path = build.write(tmp_path / "m.onnx", nodes, tensors, **options)
    with pytest.raises(ModelError, match=reason):
        load(path)
