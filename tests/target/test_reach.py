"""What two samples tell of a model as it is loaded, and when more are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from leakaudit.errors import ModelError
from leakaudit.target import load, reach
from leakaudit.target.onnx import selfcheck
from leakaudit.target.onnx.load import from_onnx
from leakaudit.target.onnx.prepare import prepare
from leakaudit.target.onnx.read import read_model
from leakaudit.target.onnx.weightless import without_weights
from leakaudit.target.parts import groups, keep_little, let_go, only, squared, squared_difference
from leakaudit.target.probe import batch_sizes, double_backward_note
from tests.target import build

NATIVE = (6,)


class Counting(nn.Module):
    """Notes the size of every batch that goes through."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.sizes = nn.Sequential(*inner), []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        result: Tensor = self.inner(x)
        return result


class Dead(nn.Module):
    """Units that no input of the range switches on."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - 1000.0)


def network(*more: nn.Module) -> Counting:
    torch.manual_seed(0)
    return Counting(nn.Linear(6, 8), *more, nn.Linear(8, 5)).eval()


def test_two_samples_tell_all_of_a_plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(nn.Tanh())
    monkeypatch.setattr(reach, "silent_tensors", None)
    monkeypatch.setattr(reach, "_input_has_part", None)
    found = reach.reach(module, None, NATIVE)
    assert (found.outputs, found.slope, found.silent) == (True, True, [])
    assert reach.reach_note(module, None, NATIVE, None, "m", where="node (Equal)", found=found) == []
    assert module.sizes == [1, 1]


def test_the_change_is_the_relative_one() -> None:
    module = network(nn.Tanh())
    updates = []
    for seed in (5, 6):
        x = reach.sample(1, NATIVE, seed, None, (-0.5, 1.5))
        loss = nn.functional.cross_entropy(module(x), torch.tensor([0]))
        updates.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    expected = float((updates[0] - updates[1]).norm() / updates[0].norm())
    assert reach.reach(module, None, NATIVE).change == pytest.approx(expected, rel=1e-5)


def test_groups_of_tensors_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(nn.Tanh(), nn.Linear(8, 8), Dead())
    whole = reach.reach(module, None, NATIVE)
    monkeypatch.setattr(reach, "HELD", 100)
    grouped = reach.reach(module, None, NATIVE)
    assert len(module.sizes) > 4
    assert grouped.change == pytest.approx(whole.change, rel=1e-5)
    assert (grouped.outputs, grouped.slope, grouped.silent) == (whole.outputs, whole.slope, whole.silent)
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("sizes", [None, (3,)])
def test_a_silent_tensor_is_named_after_further_samples(sizes: tuple[int, ...] | None) -> None:
    module = network(Dead())
    found = reach.reach(module, sizes, NATIVE)
    assert found.silent == ["inner.0.weight", "inner.0.bias", "inner.2.weight"]
    assert found.slope is False
    assert reach.silent_tensors(module, sizes, NATIVE, None, found.silent) == found.silent
    assert module.sizes == ([1, 1, 1, 1] if sizes is None else [3, 3, 3])
    assert reach.silent_tensors(module, sizes, NATIVE, None, ["inner.2.bias"]) == []


def test_a_zero_head_is_not_cut_off_and_a_comparison_is() -> None:
    module = network(nn.Tanh())
    nn.init.zeros_(module.inner[2].weight)
    found = reach.reach(module, None, NATIVE)
    assert found.slope is False
    assert found.silent == ["inner.0.weight", "inner.0.bias"]
    note = reach.reach_note(module, None, NATIVE, None, "m", where="node (Equal)", found=found)
    assert [one.id for one in note] in ([], ["LA933"])

    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0).float()

    trees = network(Steps())
    cut = reach.reach(trees, None, NATIVE)
    assert cut.slope is None
    with pytest.raises(ModelError, match="alone, which has no derivative"):
        reach.reach_note(trees, None, NATIVE, None, "m", found=cut)


def test_batches_of_two_tell_that_any_size_is_taken() -> None:
    module = network(nn.Tanh())
    assert batch_sizes(module, 1, NATIVE) is None
    assert module.sizes == [2, 1, 1]
    module.sizes.clear()
    assert batch_sizes(module, 4, NATIVE) is None
    assert module.sizes == [3, 4]

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    assert batch_sizes(network(Mixed()), None, NATIVE) == (1,)


def test_a_second_derivative_that_lacks_or_overflows_is_said() -> None:
    class Huge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e15 * (1e15 * x).sin()

    assert double_backward_note(network(nn.Tanh()), None, NATIVE) == []
    stack = network(nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Hardsigmoid())
    assert [one.id for one in double_backward_note(stack, None, NATIVE)] == ["LA930"]
    assert [one.id for one in double_backward_note(network(Huge()), None, NATIVE)] == ["LA932"]


class Threshold(nn.Module):
    """A class by one comparison, which a sign keeps a slope of zero for."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.threshold = threshold
        self.scale, self.weight = nn.Parameter(torch.ones(6)), nn.Parameter(torch.randn(1, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sign((x * self.scale)[:, :1] - self.threshold) * self.weight


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.1, 1.3])
@pytest.mark.parametrize("sizes", [None, (1,)])
def test_a_rule_that_few_inputs_pass_is_refused(threshold: float, sizes: tuple[int, ...] | None) -> None:
    with pytest.raises(ModelError, match="alone, which has no derivative"):
        reach.reach_note(Threshold(threshold).eval(), sizes, NATIVE, None, "m", where="node (Sign)")


def test_an_operator_of_one_layer_of_a_stack_is_found() -> None:
    class Backwards(nn.Module):
        """The layer that is registered first is the last one."""

        def __init__(self) -> None:
            super().__init__()
            self.l2, self.l1 = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.l2(nn.functional.hardsigmoid(self.l1(x)))  # type: ignore[no-any-return]

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.b[0](x)) + nn.functional.hardsigmoid(self.b[1](x))

    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor, weight: Tensor) -> Tensor:
            context.save_for_backward(x, weight)  # type: ignore[attr-defined]
            return x @ weight

        @staticmethod
        def backward(context: object, outer: Tensor) -> tuple[Tensor, Tensor]:
            x, weight = context.saved_tensors  # type: ignore[attr-defined]
            return (outer @ weight.T).detach(), (x.T @ outer).detach()

    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            return Detached.apply(x, self.weight)  # type: ignore[no-any-return]

    for module in (Backwards(), Beside(), Once()):
        assert [one.id for one in double_backward_note(module.eval(), None, NATIVE)] == ["LA930"], module


def test_groups_and_sums() -> None:
    tensors = {
        name: torch.randn(size, requires_grad=True) for name, size in (("a", 10), ("b", 90), ("c", 5), ("d", 20))
    }
    assert groups(tensors, 160) == [["a", "c", "d"], ["b"]]
    with only(tensors, ["c"]) as chosen:
        assert chosen == [tensors["c"]]
        assert [name for name, tensor in tensors.items() if tensor.requires_grad] == ["c"]
    assert all(tensor.requires_grad for tensor in tensors.values())
    one, two = torch.randn(200_000), torch.randn(200_000)
    assert squared(one) == pytest.approx(float(one.double().square().sum()), rel=1e-12)
    assert squared_difference(one, two) == pytest.approx(float((one - two).double().square().sum()), rel=1e-12)
    let_go()
    keep_little()
    assert float(torch.ones(1 << 21).sum()) == 1 << 21


def _wide(path: Path) -> Path:
    """A file with a large tensor, a small one, and a large one that becomes another."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["b"]), helper.make_node("Add", ["b", "c"], ["y"]),
    ]  # fmt: skip
    return build.write(path, nodes, [build.tensor("W", 12, 2048), build.tensor("V", 2048, 4), build.tensor("c", 4)])


def test_a_model_without_its_weights_is_compared_with_the_same(tmp_path: Path) -> None:
    path = _wide(tmp_path / "m.onnx")
    model = read_model(path)
    source = prepare(model, str(path))
    light = without_weights(model, source)
    kinds = {tensor.name: tensor.data_location for tensor in light.graph.initializer}
    assert kinds == {"W": TensorProto.EXTERNAL, "V": TensorProto.DEFAULT, "c": TensorProto.DEFAULT}
    assert light.ByteSize() < model.ByteSize() - 90_000
    assert list(light.graph.node) == list(model.graph.node)
    assert light.opset_import == model.opset_import
    target = load(path)
    check = selfcheck.compare(light, target.module, source, target.native_shape, str(path))
    assert check.relative is not None
    assert check.relative < 1e-5


def test_a_weight_that_is_not_the_file_s_is_kept_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _wide(tmp_path / "m.onnx")

    def wrong(*args: object, **kwargs: object) -> object:
        source = prepare(*args, **kwargs)  # type: ignore[arg-type]
        source.parameters["W"] = source.parameters["W"] * 1.5
        return source

    monkeypatch.setattr("leakaudit.target.onnx.load.prepare", wrong)
    with pytest.raises(ModelError, match="not imported faithfully"):
        from_onnx(path, None, (), None, {}, "eval")
