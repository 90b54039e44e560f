"""Bad inputs of the closed forms and the rank analysis: each gives a typed error or a downgrade with the cause named.

The ids of the tests carry the number of the case:

1 activations and operators without an inverse, 2 updates that are zero, 3 losses without a root, or with several,
4 exact zeros at a kink, 5 values that are not finite, order, frozen and tied tensors, 6 updates that are not one plain
gradient, 7 batch statistics, derived weights, dropout, 8 padding, dilation, groups, transposition, unvisited entries,
9 what ONNX files hold, 10 memory, 11 ranks without a gap, 12 degenerate shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import helper, numpy_helper
from torch import Tensor, nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.linear import LinearReader
from leakaudit.attacks.rgap import RGAP
from leakaudit.cli.inspect import inspect
from leakaudit.cli.rank import rank
from leakaudit.client.batch import Batch
from leakaudit.client.observe import NoTraceError, observe
from leakaudit.domains.images import Images
from leakaudit.errors import LeakauditError, ModelError, UsageError
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable
from leakaudit.recursion.activations import preimage
from leakaudit.recursion.recursion import build_system
from leakaudit.recursion.solve import SolverSettings, solve
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.ranked import RankReport
from leakaudit.target import load
from leakaudit.target.target import Target
from tests.attacks.closed_form import SMALL, attack, error, image, leaky, make, refusal, small
from tests.risk.nets import conv, target
from tests.target import build

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "hard-swish": nn.Hardswish}


def one_sample(module: nn.Module, label: int = 1, **options: Any) -> tuple[Target, Observation, Tensor]:
    return make(module, SMALL, image(), label, 5, **options)


def shape_of(module: nn.Module) -> RankReport:
    return rank_analysis(target(module, (3, 12, 12), 5), seconds=0.0)


# ---- 1 to 4: the recursion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gelu", "silu", "hard-swish"], ids="1-{}".format)
def test_activations_without_an_inverse_are_never_inverted(name: str) -> None:
    module = small(conv(3, 8, 3, 1, 1), ACTIVATIONS[name]())
    reason = refusal(*one_sample(module)[:2])
    assert name.replace("-", "") in reason
    assert "not a function of its output" in reason
    assert shape_of(module).level in ("identifiable", "partially identifiable")


def test_1_relu_keeps_gradient_constraints_only() -> None:
    module = small(conv(3, 2, 3, 1, 1), nn.ReLU())
    assert "counted with half of the outputs" in shape_of(module).layers[0].note
    result = attack(*one_sample(module)[:2])
    assert not result.exact
    assert any("is deficient" in note and "not exact" in note for note in result.notes)


@pytest.mark.parametrize(
    ("layer", "word"), [(nn.MaxPool2d(2), "max-pool"), (nn.Softmax(1), "softmax")], ids=["1-max-pool", "1-softmax"]
)
def test_operators_that_hide_values_are_named(layer: nn.Module, word: str) -> None:
    reason = refusal(*one_sample(small(conv(3, 8, 3, 1, 1), leaky(), layer))[:2])
    assert "the recursion stops at" in reason
    assert word in reason


def test_2_an_update_of_zeros_is_no_trace_and_no_division() -> None:
    with pytest.raises(NoTraceError, match="leaves no trace"):
        one_sample(small(conv(3, 4, 3), leaky(), nn.Threshold(1e9, 0.0), classes=5, bias=False))


def test_2_a_dead_layer_is_named() -> None:
    model, observation, _ = one_sample(small(conv(3, 4, 3), leaky()))
    dead = {n: torch.zeros_like(g) if n == "0.weight" else g for n, g in observation.update.items()}
    assert "the update of 0 is zero" in refusal(model, replace(observation, update=dead))


def with_product(value: float) -> tuple[Target, Observation]:
    """An update whose ⟨G, W⟩ at the last layer has this value."""
    module = small(conv(3, 24, 3), leaky(), classes=1, bias=False)
    model, observation, _ = make(module, SMALL, image(), 1, 2, binary=True, dtype=torch.float64)
    name = list(observation.update)[-1]
    now = float((observation.update[name] * model.parameters[name].detach()).sum())
    return model, replace(observation, update={n: value / now * g for n, g in observation.update.items()})


def test_3_below_the_minimum_of_the_loss_there_is_no_root() -> None:
    assert "no input of" in refusal(*with_product(-0.5))
    assert "noisy, clipped, or not one sample's gradient" in refusal(*with_product(-0.5))


def test_3_between_it_and_zero_both_roots_are_kept() -> None:
    result = attack(*with_product(-0.2))
    assert result.snapshots
    assert any("twins" in note for note in result.notes)


@pytest.mark.parametrize("zero", [0.0, -0.0], ids=["4-zero", "4-minus-zero"])
def test_zero_takes_the_slope_below_zero_as_in_training(zero: float) -> None:
    z = torch.tensor([zero], dtype=torch.float64, requires_grad=True)
    torch.nn.functional.leaky_relu(z, 0.2).sum().backward()
    assert z.grad is not None
    assert torch.equal(preimage("leaky_relu", {"slope": 0.2}, z.detach()).slope, z.grad)


# ---- 5 and 6: the update --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["5-nan", "5-inf"])
def test_values_that_are_not_finite_are_refused_by_tensor(value: float) -> None:
    model, observation, _ = one_sample(small(conv(3, 12, 3), leaky()))
    broken = dict(observation.update)
    broken["0.weight"] = broken["0.weight"].clone().fill_(value)
    assert "0.weight has NaN or infinite values" in refusal(model, replace(observation, update=broken))


def test_5_order_of_the_update_does_not_matter() -> None:
    model, observation, truth = one_sample(small(conv(3, 24, 3), leaky()))
    turned = replace(observation, update=dict(reversed(observation.update.items())))
    assert error(attack(model, turned), truth) < 1e-9


def test_5_frozen_layers_have_weight_constraints_only() -> None:
    model, _, _ = one_sample(small(conv(3, 24, 3), leaky()))
    row = rank_analysis(replace(model, frozen=("0.weight",)), seconds=0.0).layers[0]
    assert row.gradient == 0
    assert "not trained" in row.note


def test_5_tied_weights_are_not_separated() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    module = small(shared, leaky(), shared, leaky())
    assert "shares its weight" in refusal(*one_sample(module)[:2])
    assert "cannot be separated" in shape_of(module).score_reason


def altered(model: Target, observation: Observation, how: str) -> dict[str, Tensor]:
    """What else than one sample's plain gradient of the mean loss clients may share."""
    plain = observation.update
    if how == "weight-decay":
        return {name: g + 0.01 * model.parameters[name].detach() for name, g in plain.items()}
    if how == "momentum":
        earlier = model.gradient(torch.randn(1, 3, 12, 12, generator=cpu_generator(3)), torch.tensor([2]))
        return {name: g + 0.9 * earlier[name].detach() for name, g in plain.items()}
    if how == "fedavg":  # two local steps: minus the rate times gradients at two points
        after = {name: (p - 0.5 * plain[name]).detach().requires_grad_() for name, p in model.parameters.items()}
        second = model.gradient(SMALL.encode(image()), torch.tensor([1]), parameters=after)
        return {name: -0.5 * (g + second[name].detach()) for name, g in plain.items()}
    factor = {"clipping": 0.01, "sum": 8.0}[how]
    return {name: factor * g for name, g in plain.items()}


@pytest.mark.parametrize("how", ["weight-decay", "momentum", "fedavg", "clipping", "sum"], ids="6-{}".format)
@pytest.mark.parametrize("bias", [True, False], ids=["biased", "plain"])
@pytest.mark.parametrize("reader", [RGAP, LinearReader], ids=["rgap", "linear"])
def test_what_is_not_a_plain_gradient_is_never_called_exact_wrongly(how: str, bias: bool, reader: type[Attack]) -> None:
    layers = (nn.Flatten(), nn.Linear(432, 24, bias=bias), leaky()) if reader is LinearReader else (
        conv(3, 24, 3), leaky())  # fmt: skip
    model, observation, truth = one_sample(small(*layers, bias=bias))
    seen = replace(observation, update=altered(model, observation, how))
    method = reader(reader.presets["standard"])
    refused = method.applies(model, seen)
    if isinstance(refused, NotApplicable):
        assert "noisy, clipped, or not one sample's gradient" in refused.reason
        return
    result = method(model, seen, cpu_generator(0))
    assert not result.exact or error(result, truth) < 1e-6
    assert result.exact or result.residual > 1e-3 or any("not of rank one" in note for note in result.notes)


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        ("local_steps = 5", "local_epochs and local_batch_size"),
        ('algorithm = "fedavg"', "learning_rate"),
        ("lr = 0.1", "learning_rate"),
        ('reduction = "sum"', "mean times the batch size"),
    ],
    ids=["6-local_steps", "6-algorithm", "6-lr", "6-reduction"],
)
def test_training_that_is_said_otherwise_is_refused(line: str, way_out: str, tmp_path: Path) -> None:
    from leakaudit.target.train_config import read_train_config

    file = tmp_path / "train.toml"
    file.write_text(line)
    with pytest.raises(UsageError, match=line.split()[0]) as caught:
        read_train_config(file)
    assert way_out in caught.value.hint


# ---- 7 and 8: layers ------------------------------------------------------------------------------------------------


def weight_normed() -> nn.Module:
    return small(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), leaky())


def test_7_batch_statistics() -> None:
    module = small(conv(3, 8, 3), nn.BatchNorm2d(8), leaky())
    report = rank_analysis(target(module, (3, 12, 12), 5, train=True), seconds=0.0)
    assert any("batch statistics" in row.note for row in report.layers)


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (weight_normed, "computed from several tensors"),
        (lambda: small(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), leaky()), "padding mode"),
        (lambda: small(nn.Upsample(scale_factor=2), conv(3, 4, 3), leaky()), "is not covered"),
    ],
    ids=["7-weight-norm", "8-reflect", "8-resize"],
)
def test_layers_outside_the_count_are_named(module: Callable[[], nn.Module], word: str) -> None:
    report = shape_of(module())
    assert report.level == "counts unavailable"
    assert word in report.score_reason


def test_7_dropout_that_the_client_had_on() -> None:
    model, observation, _ = one_sample(small(conv(3, 12, 3), leaky(), nn.Dropout(0.5), bias=False))
    train = replace(observation, protocol=replace(observation.protocol, mode="train"))
    assert "dropout is active" in refusal(model, train)


@pytest.mark.parametrize(
    "module",
    [
        lambda: small(conv(3, 24, 3, groups=3), leaky()),
        lambda: small(nn.Conv2d(3, 24, 3, dilation=2, padding=2, bias=False), leaky()),
        lambda: small(nn.ConvTranspose2d(3, 24, 3, bias=False), leaky()),
        lambda: small(nn.ZeroPad2d((0, 2, 1, 0)), conv(3, 24, 3), leaky()),
    ],
    ids=["8-groups", "8-dilation", "8-transposed", "8-asymmetric-padding"],
)
def test_other_convolutions_are_solved_not_refused(module: Callable[[], nn.Module]) -> None:
    net = module()
    assert shape_of(net).layers[-2].deficit == 0
    assert error(attack(*(found := one_sample(net))[:2]), found[2]) < 1e-8


def test_8_entries_that_no_window_reads_are_counted_and_said() -> None:
    row = shape_of(small(conv(3, 24, 2, 3), leaky())).layers[0]
    assert "240 of 432 entries of its input are read by no window" in row.note
    assert row.deficit == 240


# ---- 9: files -------------------------------------------------------------------------------------------------------


def ceil_pool(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
    ]
    more, tensors = build.linear(source="f", width=4 * 9)
    return build.write(path, [*nodes, *more], [build.tensor("k", 4, 3, 3, 3), *tensors], shape=("N", 3, 7, 7))


def gemm(path: Path, **options: float) -> Path:
    weight = build.tensor("weight", *((4, 12) if options.get("transB") else (12, 4)))
    node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], "gemm", **options)
    return build.write(path, [node], [weight, build.tensor("bias", 4)])


def shared_initialiser(path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "second"),
    ]
    return build.write(path, nodes, [build.tensor("w", 12, 12)])


@pytest.mark.parametrize(
    ("file", "word"),
    [
        (ceil_pool, "max_pool"),
        (lambda path: gemm(path, transB=1), "reads the input off"),
        (lambda path: gemm(path, transB=0), "reads the input off"),
        (shared_initialiser, "sum that cannot be separated"),
    ],
    ids=["9-ceil-mode", "9-gemm-transposed", "9-gemm-plain", "9-shared-initialiser"],
)
def test_files_that_are_analysed(file: Callable[[Path], Path], word: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(rank, [str(file(tmp_path / "m.onnx")), "--format", "json"], catch_exceptions=False)
    assert run.exit_code == 0
    assert word in run.stdout


@pytest.mark.parametrize("factors", [{"alpha": 0.5}, {"beta": 2.0}, {"alpha": 0.5, "beta": 2.0}], ids="9-{}".format)
def test_gemm_factors_do_not_break_the_reading(factors: dict[str, float], tmp_path: Path) -> None:
    model = load(gemm(tmp_path / "m.onnx", transB=1, **factors))
    channels = model.image_shape[0]
    space = Images(model.image_shape, (0.5,) * channels, (0.25,) * channels)
    pixels = torch.rand((1, *model.image_shape), generator=cpu_generator(0))
    observation = observe(model, Batch(pixels, torch.tensor([1]), (0,)), FedSGD(1), space)
    results = [
        method(model, observation, cpu_generator(0))
        for method in (RGAP(RGAP.presets["standard"]), LinearReader(LinearReader.presets["standard"]))
        if method.applies(model, observation) is None
    ]
    assert results
    for result in results:
        assert not result.exact or error(result, space.encode(pixels)) < 1e-9
    assert any(result.exact for result in results)


def quantised(path: Path) -> Path:
    nodes, tensors = build.linear(source="d")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    chain = [("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "d")]
    return build.write(
        path, [*(helper.make_node(op, [a, "scale"], [b]) for op, a, b in chain), *nodes], [*tensors, scale]
    )


def constant_output(path: Path) -> Path:
    return build.write(path, [helper.make_node("Identity", ["w"], ["y"])], [build.tensor("w", 1, 4)])


@pytest.mark.parametrize(
    ("file", "word"),
    [(quantised, "quantised"), (constant_output, "input")],
    ids=["9-quantised", "9-constant-output"],
)
def test_files_that_are_refused(file: Callable[[Path], Path], word: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(file(tmp_path / "m.onnx"))
    assert word in caught.value.message + caught.value.hint


# ---- 10 to 12: size -------------------------------------------------------------------------------------------------


def test_10_a_large_image_is_counted_from_shapes_alone() -> None:
    module = nn.Sequential(conv(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 56 * 56, 10))
    started = time.perf_counter()
    report = rank_analysis(target(module, (3, 224, 224)))
    assert time.perf_counter() - started < 30
    assert report.layers[0].unknowns == 150_528
    assert not any(row.measured for row in report.layers)


def test_10_the_block_of_gradient_constraints_is_not_formed_when_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.recursion.plan import record
    from leakaudit.recursion.system import Convolution

    module = nn.Sequential(conv(3, 512, 3, 1, 1), leaky(), nn.Flatten(), nn.Linear(512 * 24 * 24, 2))
    space = replace(SMALL, shape=(3, 24, 24))
    model, observation, _ = make(module, space, torch.rand(3, 24, 24), 1, 2)
    (step,) = [step for step in record(model, observation).plan().steps if step.action == "solve"]
    system = build_system(step, torch.zeros(512, 24, 24).double(), torch.ones(512, 24, 24).double())
    rows, columns = system.map.block_size()
    monkeypatch.setattr(Convolution, "block", lambda *_: pytest.fail(f"formed {rows} × {columns}"))
    monkeypatch.setattr("leakaudit.recursion.solve.BLOCK_WORK", rows * columns**2 - 1)
    assert solve(system, True, SolverSettings(iterations=2, dense_limit=0)).method == "LSMR"


class Fading(nn.Module):
    """Two paths whose singular values fall without a gap from 1 to 1e-14."""

    def __init__(self) -> None:
        super().__init__()
        q, _ = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64, generator=cpu_generator(0)))
        matrix = (q * torch.logspace(0, -14, 24, dtype=torch.float64)) @ q.T
        self.register_buffer("one", matrix)
        self.register_buffer("two", 0.5 * matrix)
        self.head = nn.Linear(24, 4, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        result: Tensor = self.head(x @ self.one + nn.functional.leaky_relu(x @ self.two, 0.5))
        return result


def test_11_a_rank_without_a_gap_is_called_undecided() -> None:
    report = rank_analysis(target(Fading(), (1, 4, 6), 4), seconds=60.0)
    row = next(row for row in report.layers if row.measured)
    assert "rank undecided" in row.note
    assert row.unique is None


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), leaky(), nn.Flatten(), nn.Linear(4, 3)), (3, 1, 1)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(1, 3)), (1, 1, 1)),
        (lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)), (3, 4, 4)),
    ],
    ids=["12-one-pixel", "12-one-unknown", "12-pool-first"],
)
def test_degenerate_shapes_are_analysed(module: Callable[[], nn.Module], shape: tuple[int, int, int]) -> None:
    report = rank_analysis(target(module(), shape, 3))
    assert report.level != "counts unavailable"
    assert report.unknowns == shape[0] * shape[1] * shape[2]


def empty_window(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "conv", kernel_shape=[5, 5]),
        helper.make_node("Flatten", ["c"], ["f"], "flatten"),
    ]
    more, tensors = build.linear(source="f", width=4)
    return build.write(path, [*nodes, *more], [build.tensor("k", 4, 3, 5, 5), *tensors], shape=("N", 3, 4, 4))


def empty_layer(path: Path) -> Path:
    node = helper.make_node("Gemm", ["x", "weight"], ["y"], "gemm", transB=1)
    return build.write(path, [node], [numpy_helper.from_array(np.zeros((0, 12), np.float32), "weight")])


def no_parameters(path: Path) -> Path:
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    return build.write(path, nodes, shape=("N", 4, 6, 6))


@pytest.mark.parametrize(
    "file", [empty_window, empty_layer, no_parameters], ids=["12-empty-window", "12-empty-layer", "12-no-parameters"]
)
@pytest.mark.parametrize("command", [rank, inspect], ids=["rank", "inspect"])
def test_degenerate_files_are_one_typed_error(file: Callable[[Path], Path], command: Any, tmp_path: Path) -> None:
    run = CliRunner().invoke(command, [str(file(tmp_path / "m.onnx"))])
    assert isinstance(run.exception, LeakauditError)
    assert run.exception.exit_code == 3
    assert run.exception.message
