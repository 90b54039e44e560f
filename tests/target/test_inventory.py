"""The inventory: kinds, shapes, names and settings of every layer, whatever wrote the model."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.domains.images import Images
from leakaudit.target.inventory import inventory
from leakaudit.target.kinds import Layer, is_sequential, parameter_users
from leakaudit.target.target import Target
from leakaudit.target.trace import TraceError, trace
from leakaudit.tasks.single_label import SingleLabel

SHAPE = (3, 8, 8)


def layers(module: nn.Module, shape: tuple[int, int, int] = SHAPE, *, train: bool = False) -> tuple[Layer, ...]:
    return inventory(Target(module.train(train), "net", "module", shape, "NCHW", Images.plain(shape), SingleLabel(5)))


def kinds(found: tuple[Layer, ...]) -> list[str]:
    return [layer.kind for layer in found]


class Calls(nn.Module):
    """A function of the input, with a head so that there is something to train."""

    def __init__(self, function: object, features: int = 192) -> None:
        super().__init__()
        self.function, self.head = function, nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        assert callable(self.function)
        result: Tensor = self.head(self.function(x).flatten(1))
        return result


def test_a_small_convolutional_network() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(24, 5),
    )  # fmt: skip
    found = layers(net)
    assert kinds(found) == ["convolution", "batchnorm", "activation", "max_pool", "reshape", "linear"]
    convolution, norm, act, pool, _, head = found
    assert (convolution.name, convolution.weight, convolution.bias) == ("0", "0.weight", None)
    assert (convolution.input_shape, convolution.output_shape) == ((3, 8, 8), (6, 4, 4))
    expected = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "transposed": False}
    assert expected.items() <= convolution.settings.items()
    assert norm.settings["running_mean"] == "1.running_mean"
    assert norm.settings["batch_statistics"] is False
    assert act.settings == {"function": "leaky_relu", "slope": 0.2}
    assert pool.settings["kernel"] == pool.settings["stride"] == (2, 2)
    assert (head.weight, head.bias) == ("6.weight", "6.bias")
    assert (head.settings["in_features"], head.settings["out_features"], head.settings["tokens"]) == (24, 5, 1)
    assert is_sequential(found)
    assert [layer.inputs for layer in found] == [(-1,), (0,), (1,), (2,), (3,), (4,)]


def test_train_mode_shows_dropout_and_batch_statistics_and_changes_no_buffer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.25), nn.Flatten(), nn.Linear(216, 5))
    before = {name: value.clone() for name, value in net.named_buffers()}
    state = torch.get_rng_state()
    found = layers(net, train=True)
    assert kinds(found) == ["convolution", "batchnorm", "dropout", "reshape", "linear"]
    assert found[1].settings["batch_statistics"] is True
    assert found[2].settings["p"] == pytest.approx(0.25)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.relu, "relu"),
        (F.relu6, "relu6"),
        (F.gelu, "gelu"),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh"),
        (lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), "gelu"),
        (lambda x: 0.5 * (x * (torch.erf(x * 0.7071067811865476) + 1.0)), "gelu"),
        (lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))), "gelu_tanh"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: x * torch.sigmoid(1.702 * x), "quick_gelu"),
        (lambda x: x * torch.clamp(x + 3, 0, 6) / 6, "hardswish"),
        (lambda x: torch.log(1 + torch.exp(x)), "softplus"),
        (F.silu, "silu"),
        (F.mish, "mish"),
        (F.elu, "elu"),
        (F.selu, "selu"),
        (F.softplus, "softplus"),
        (torch.tanh, "tanh"),
        (torch.sigmoid, "sigmoid"),
        (F.hardswish, "hardswish"),
        (lambda x: torch.clamp(x, min=0.0), "relu"),
    ],
)
def test_activations_single_and_decomposed(function: object, name: str) -> None:
    found = layers(Calls(function))
    assert kinds(found) == ["activation", "reshape", "linear"]
    assert found[0].settings["function"] == name


def test_a_gate_is_not_taken_for_an_activation() -> None:
    found = layers(Calls(lambda x: x * torch.sigmoid(x.flip(-1))))
    assert "multiply" in kinds(found)
    assert any(layer.settings.get("operator") == "flip" for layer in found)


def test_input_normalisation_is_affine() -> None:
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    found = layers(Calls(lambda x: (x - mean) / 0.25))
    assert kinds(found) == ["affine", "reshape", "linear"]
    (first, values), second = found[0].settings["operations"]
    assert first == "sub"
    assert values == pytest.approx((0.4, 0.5, 0.6))
    assert second == ("div", 0.25)


class Written(nn.Module):
    """Linear layers as exporters write them: matrix product, then addition."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.randn(192, 7)), nn.Parameter(torch.randn(7))
        self.second = nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x.flatten(1) @ self.weight + self.offset)
        return y @ self.second.t()


def test_matmul_and_add_become_one_linear_layer() -> None:
    found = layers(Written())
    assert kinds(found) == ["reshape", "linear", "activation", "linear"]
    assert (found[1].weight, found[1].bias, found[1].settings["transposed"]) == ("weight", "offset", True)
    assert (found[3].weight, found[3].bias, found[3].settings["transposed"]) == ("second", None, False)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(len(t), -1, -1), t], dim=1) + self.position
        t = t + self.attention(self.norm(t), self.norm(t), self.norm(t), need_weights=False)[0]
        logits: Tensor = self.head(self.mix(t)[:, 0])
        return logits


def test_a_transformer() -> None:
    found = layers(Tokens())
    by_name = {layer.name: layer for layer in found}
    assert by_name["mix"].settings["tokens"] == 5
    assert (by_name["mix"].input_shape, by_name["mix"].output_shape) == ((5, 8), (5, 8))
    assert by_name["position"].kind == "add"
    assert by_name["position"].bias == "position"
    assert by_name["concat1"].settings["tensors"] == ("token",)
    assert by_name["norm"].kind == "layernorm"
    assert by_name["attention.out_proj"].kind == "linear"
    assert by_name["attention"].weight == "attention.in_proj_weight"
    assert {"softmax", "matmul", "slice"} <= set(kinds(found))
    residual = next(layer for layer in found if layer.kind == "add" and len(layer.inputs) == 2)
    assert by_name["position"].index in residual.inputs
    assert not is_sequential(found)
    assert "other" not in kinds(found)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(self.conv(x)).flatten(1))
        return logits


def test_shared_parameters_have_two_users_and_two_names() -> None:
    found = layers(Shared())
    assert parameter_users(found) == {
        "conv.weight": (0, 1), "conv.bias": (0, 1), "head.weight": (3,), "head.bias": (3,)
    }  # fmt: skip
    assert len({layer.name for layer in found}) == len(found)


@pytest.mark.parametrize(
    ("module", "shape", "kind", "settings"),
    [
        (nn.Conv2d(3, 6, 3, groups=3, dilation=2), (6, 4, 4), "convolution", {"groups": 3, "dilation": (2, 2)}),
        (nn.ConvTranspose2d(3, 2, 3, 2), (2, 17, 17), "convolution", {"transposed": True, "out_channels": 2}),
        (nn.AvgPool2d(2), (3, 4, 4), "avg_pool", {"kernel": (2, 2)}),
        (nn.AdaptiveAvgPool2d(1), (3, 1, 1), "global_pool", {"function": "mean"}),
        (nn.AdaptiveMaxPool2d(2), (3, 2, 2), "max_pool", {"adaptive": True}),
        (nn.GroupNorm(3, 3), (3, 8, 8), "groupnorm", {"groups": 3}),
        (nn.ZeroPad2d((1, 2, 0, 1)), (3, 9, 11), "pad", {"pads": (1, 2, 0, 1), "mode": "constant"}),
        (nn.ReflectionPad2d(1), (3, 10, 10), "pad", {"mode": "reflection"}),
        (nn.PReLU(), (3, 8, 8), "activation", {"function": "prelu"}),
    ],
)
def test_layer_settings(module: nn.Module, shape: tuple[int, ...], kind: str, settings: dict[str, object]) -> None:
    size = torch.Size(shape).numel()
    first = layers(Calls(module, size))[0]
    assert (first.kind, first.output_shape) == (kind, shape)
    assert settings.items() <= first.settings.items()


def test_unknown_operators_keep_their_name() -> None:
    found = layers(Calls(lambda x: torch.cumsum(x, dim=1)))
    assert (found[0].kind, found[0].settings["operator"], found[0].name) == ("other", "cumsum", "cumsum1")


def test_weight_computed_from_several_tensors_has_no_name() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(144, 5))
    first = layers(net)[0]
    assert first.weight is None
    assert first.settings["derived_weight"] is True
    assert first.settings["weight_shape"] == (4, 3, 3, 3)


def write_through_a_view(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0]
    return y


def test_memory_written_through_a_view_is_not_taken_for_a_constant() -> None:
    found = layers(Calls(write_through_a_view))
    assert any(layer.settings.get("operator") == "in_place_write" for layer in found)


def test_in_place_activation() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5))
    assert kinds(layers(net)) == ["convolution", "activation", "reshape", "linear"]


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits if logits.sum() > 0 else -logits


def test_control_flow_on_values_is_a_typed_error_that_names_the_operator() -> None:
    with pytest.raises(TraceError, match="_local_scalar_dense") as caught:
        layers(Decides())
    assert caught.value.hint


def test_error_names_the_module() -> None:
    with pytest.raises(TraceError, match=r"'2' \(Linear\)"):
        layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 5)))


def test_output_that_ignores_the_input() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(1, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.value * 1.0

    with pytest.raises(TraceError, match="does not depend on the input"):
        layers(Constant())


def test_batch_size_of_the_file() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    fixed = Target(net.eval(), "net", "module", SHAPE, "NCHW", Images.plain(SHAPE), SingleLabel(5), batch_sizes=(4,))
    assert trace(fixed).batch_size == 4
    found = inventory(fixed)
    assert found[1].input_shape == (192,)
    assert found[1].settings["tokens"] == 1


@pytest.mark.parametrize(
    "name", ["lenet5_pt17_op10", "mnist_cnn_keras2onnx_op12_nhwc", "cifar_cnn_pt17_op10_dyn", "mnist_mlp_tf2onnx_op9"]
)
def test_real_onnx_files(data: Path, name: str) -> None:
    from leakaudit.target.load import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = load(data / "onnx" / f"{name}.onnx")
    found = inventory(target)
    assert "other" not in kinds(found)
    weighted = [layer for layer in found if layer.kind in ("convolution", "linear")]
    assert all(layer.weight in target.parameters for layer in weighted)
    assert is_sequential(found)
