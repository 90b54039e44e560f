"""R-GAP: the golden networks, what it refuses and why, and the laws that a closed form must obey."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.rgap import RGAP
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.recursion.obstacles import Obstacle
from leakaudit.target.target import Target
from tests.attacks.closed_form import SMALL, attack, error, image, leaky, make, refusal, small

CIFAR = Images((3, 32, 32), (0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159))
MNIST = Images((1, 28, 28), (0.1307,), (0.3081,))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cnn6(second: int = 36, outputs: int = 1, bias: bool = False) -> nn.Sequential:
    """The network of the R-GAP paper; ``second=20`` is its rank-deficient variant."""
    torch.manual_seed(0)
    shapes = [(3, 12, 4, 2, 2), (12, second, 3, 2, 1), (second, 36, 3, 1, 1), (36, 36, 3, 1, 1), (36, 64, 3, 2, 1)]
    layers: list[nn.Module] = []
    for c, f, k, s, p in [*shapes, (64, 128, 3, 1, 1)]:
        layers += [nn.Conv2d(c, f, k, s, p, bias=False), leaky()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3200, outputs, bias=bias))


def fcn3() -> nn.Sequential:
    torch.manual_seed(0)
    widths = [nn.Linear(784, 1000, bias=False), nn.Linear(1000, 100, bias=False), nn.Linear(100, 1, bias=False)]
    return nn.Sequential(nn.Flatten(), widths[0], leaky(), widths[1], leaky(), widths[2], leaky())


def lenet(activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """The LeNet of DLG: 3×32×32, bias, three convolutions without pooling."""
    torch.manual_seed(0)
    c = [nn.Conv2d(3, 12, 5, 2, 2), nn.Conv2d(12, 12, 5, 2, 2), nn.Conv2d(12, 12, 5, 1, 2)]
    return nn.Sequential(c[0], activation(), c[1], activation(), c[2], activation(), nn.Flatten(), nn.Linear(768, 10))


# ---- golden networks ------------------------------------------------------------------------------------------------


def cifar(data: Path, index: int) -> Tensor:
    return torch.from_numpy(np.load(data / "images/cifar10_test.npz")["x"][index]).float() / 255


@pytest.mark.parametrize(("outputs", "bias"), [(1, False), (10, True), (10, False)])
def test_cnn6_on_cifar_is_exact(data: Path, outputs: int, bias: bool) -> None:
    target, observation, truth = make(
        cnn6(36, outputs, bias), CIFAR, cifar(data, 1), 1, max(2, outputs), binary=outputs == 1
    )
    result = attack(target, observation)
    assert error(result, truth) <= 1e-9
    assert result.exact
    assert result.labels.tolist() == [1]


def test_cnn6_d_is_reported_as_deficient(data: Path) -> None:
    target, observation, truth = make(cnn6(20), CIFAR, cifar(data, 0), 0, 2, binary=True)
    result = attack(target, observation)
    assert not result.exact
    assert error(result, truth) > 0.05
    assert any(
        "Layer 2 is deficient" in note and "280 of 3468" in note and "minimum-norm" in note for note in result.notes
    )
    assert any("Recovery stops at layer 2" in note for note in result.notes)


@pytest.mark.parametrize("index", [0, 1])
def test_fcn3_on_mnist_is_exact_in_float64(data: Path, index: int) -> None:
    pixels = torch.from_numpy(np.load(data / "images/mnist_test.npz")["x"][index]).double() / 255
    target, observation, truth = make(fcn3(), MNIST, pixels, index, 2, binary=True, dtype=torch.float64)
    result = attack(target, observation)
    assert error(result, truth) <= 1e-20
    assert result.exact
    assert result.labels.tolist() == [index]


def test_lenet_with_bias_and_tanh_on_cifar(data: Path) -> None:
    target, observation, truth = make(lenet(), CIFAR, cifar(data, 0), 3, 10)
    result = attack(target, observation)
    assert error(result, truth) <= 1e-9
    assert result.exact


# ---- what it goes through -------------------------------------------------------------------------------------------

GOES_THROUGH: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": lambda: small(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.Sigmoid()),
    "softplus": lambda: small(nn.Conv2d(3, 8, 3, padding=1), nn.Softplus()),
    "elu": lambda: small(nn.Conv2d(3, 8, 3, padding=1), nn.ELU(0.5), nn.Conv2d(8, 8, 3), nn.ELU()),
    "prelu": lambda: small(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)),
    "relu by gradient constraints": lambda: small(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()
    ),
    "batchnorm in eval mode": lambda: small(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    ),
    "groups and dilation": lambda: small(
        nn.Conv2d(3, 8, 3, padding=1), leaky(), nn.Conv2d(8, 16, 3, groups=2, dilation=2, padding=2), leaky()
    ),
    "padding layers": lambda: small(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), leaky(), nn.ConstantPad2d(1, 0.3),
                                    nn.Conv2d(8, 8, 3), leaky()),
    "transposed convolution": lambda: small(nn.ConvTranspose2d(3, 6, 3, stride=2), leaky()),
    "pixel shuffle": lambda: small(nn.Conv2d(3, 12, 3, padding=1), leaky(), nn.PixelShuffle(2), nn.Conv2d(3, 8, 3)),
    "no bias at the end": lambda: small(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), bias=False),
    "dense only": lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 50, bias=False), nn.Tanh(), nn.Linear(50, 5)),
}  # fmt: skip


@pytest.mark.parametrize("build", list(GOES_THROUGH.values()), ids=list(GOES_THROUGH))
def test_goes_through(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    target, observation, truth = make(build(), SMALL, image(), 2, 5, dtype=torch.float64)
    result = attack(target, observation)
    assert error(result, truth) < 1e-12, result.notes
    assert result.exact
    assert result.labels.tolist() == [2]


class Transposed(nn.Module):
    """x W with W stored (in, out), as ONNX MatMul has it, behind NHWC-like flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.05 * torch.randn(432, 40))
        self.second = nn.Parameter(0.2 * torch.randn(40, 5))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        x = (2 * x - 0.3).permute(0, 2, 3, 1).flatten(1)
        return torch.tanh(x @ self.first) @ self.second + self.bias


def test_transposed_weights_and_a_normalisation_inside() -> None:
    torch.manual_seed(0)
    target, observation, truth = make(Transposed(), SMALL, image(), 1, 5, dtype=torch.float64)
    result = attack(target, observation)
    assert error(result, truth) < 1e-16
    assert result.exact


def test_restarts_at_a_biased_linear_layer_whatever_follows() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), leaky(), nn.Flatten(), nn.Linear(1152, 32))
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head(x + torch.nn.functional.gelu(self.norm(x)))

    torch.manual_seed(0)
    target, observation, truth = make(Mixed(), SMALL, image(), 4, 5)
    result = attack(target, observation)
    assert error(result, truth) < 1e-9
    assert any("Started at layer body.3" in note for note in result.notes)
    # a clipped update: the ratio ∂W/∂b does not change, nor does anything behind it
    clipped = replace(observation, update={name: 0.1 * g for name, g in observation.update.items()})
    assert error(attack(target, clipped), truth) < 1e-9


def test_a_frozen_layer_gives_weight_constraints_only() -> None:
    net = small(nn.Conv2d(3, 8, 3, padding=1), leaky())
    target, observation, truth = make(net, SMALL, image(), 0, 5, dtype=torch.float64, frozen=("0.weight", "0.bias"))
    result = attack(target, observation)
    assert error(result, truth) < 1e-14
    assert any("0 is not trained: weight constraints only" in note for note in result.notes)


def test_stride_remainder_is_a_deficit_not_a_success() -> None:
    net = small(nn.Conv2d(3, 32, 2, stride=3), leaky())
    target, observation, _ = make(net, SMALL, image(), 0, 5, dtype=torch.float64)
    result = attack(target, observation)
    assert result.residual < 1e-6  # it regenerates the update and still is not the image
    assert not result.exact
    assert any("Layer 0 is deficient: its equations leave 240 of 432" in note for note in result.notes)


def test_entries_that_an_inner_stride_skips_do_not_matter() -> None:
    net = small(nn.Conv2d(3, 16, 3, padding=1), leaky(), nn.Conv2d(16, 64, 1, stride=2), leaky())
    target, observation, truth = make(net, SMALL, image(), 0, 5, dtype=torch.float64)
    result = attack(target, observation)  # three of four entries of the hidden layer are never read
    assert error(result, truth) < 1e-12
    assert result.exact


# ---- what it refuses ------------------------------------------------------------------------------------------------

REFUSES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "max-pool": (lambda: small(nn.Conv2d(3, 8, 3), leaky(), nn.MaxPool2d(2)), "stops at layer max_pool1 (max-pool)"),
    "average pool": (
        lambda: small(nn.Conv2d(3, 8, 3), leaky(), nn.AvgPool2d(2)),
        "stops at layer avg_pool1 (avg-pool)",
    ),
    "global pool": (lambda: small(nn.Conv2d(3, 8, 3), leaky(), nn.AdaptiveAvgPool2d(1)), "(global-pool)"),
    "gelu": (lambda: small(nn.Conv2d(3, 8, 3), nn.GELU()), "stops at layer gelu1 (activation gelu)"),
    "silu": (lambda: small(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), leaky()), "activation silu"),
    "layer norm": (lambda: small(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 10, 10])), "(layernorm)"),
    "group norm": (lambda: small(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), "(groupnorm)"),
    "softmax inside": (lambda: small(nn.Conv2d(3, 8, 3), nn.Softmax(1)), "(softmax)"),
    "circular padding": (lambda: small(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), leaky()), "stops at"),
    "weight norm": (
        lambda: small(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), leaky()),
        "computed from several tensors",
    ),
    "convolution at the end": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), leaky(), nn.Conv2d(8, 5, 10), nn.Flatten()),
        "is not a linear one",
    ),
    "tanh on unbiased logits": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 5, bias=False), nn.Tanh()),
        "the loss cannot be inverted",
    ),
}


@pytest.mark.parametrize(("build", "reason"), list(REFUSES.values()), ids=list(REFUSES))
def test_refuses_by_name(build: Callable[[], nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    target, observation, _ = make(build(), SMALL, image(), 1, 5)
    assert reason in refusal(target, observation)
    with pytest.raises(Obstacle):
        RGAP(RGAP.presets["standard"])(target, observation, cpu_generator(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(1152, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        return self.head((x + self.b(x)).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(432, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(torch.tanh(self.a(x)))).flatten(1))


@pytest.mark.parametrize(("build", "reason"), [(Residual, "joins several paths"), (Tied, "shares its weight with")])
def test_refuses_what_is_not_a_chain(build: Callable[[], nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    target, observation, _ = make(build(), SMALL, image(), 1, 5)
    assert reason in refusal(target, observation)


def test_refuses_batches_and_files_that_take_none_alone() -> None:
    target, observation, _ = make(small(nn.Conv2d(3, 8, 3), leaky()), SMALL, image(), 1, 5)
    pixels = torch.rand((4, *SMALL.shape), generator=torch.Generator().manual_seed(0))
    several = observe(target, Batch(pixels, torch.tensor([1, 2, 1, 0]), (0, 1, 2, 3)), FedSGD(4, "eval"), SMALL)
    assert "batch size 4" in refusal(target, several)
    assert "single samples" in refusal(replace(target, batch_sizes=(8,)), observation)


def test_refuses_dropout_that_the_client_had_on() -> None:
    net = small(nn.Conv2d(3, 8, 3), leaky(), nn.Dropout(0.3))
    target, observation, _ = make(net, SMALL, image(), 1, 5, mode="train")
    assert "(dropout)" in refusal(target, observation)
    assert not any(module.training for module in net.modules())


def test_dropout_behind_the_restart_does_not_matter() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 20), nn.Tanh(), nn.Dropout(0.5), nn.Linear(20, 5))
    target, observation, truth = make(net, SMALL, image(), 1, 5, mode="train")
    assert error(attack(target, observation), truth) < 1e-9


def test_refuses_batchnorm_with_batch_statistics() -> None:
    net = small(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), leaky())
    target, observation, _ = make(net, SMALL, image(), 1, 5)
    net.train()
    assert "BatchNorm with batch statistics" in refusal(target, observation)


def test_refuses_updates_without_information() -> None:
    target, observation, _ = make(small(nn.Conv2d(3, 8, 3), leaky()), SMALL, image(), 1, 5)

    def changed(name: str, value: float) -> Observation:
        filled = torch.full_like(observation.update[name], value)
        return replace(observation, update={**observation.update, name: filled})

    assert "0.weight has NaN or infinite" in refusal(target, changed("0.weight", math.nan))
    assert "0.weight has NaN or infinite" in refusal(target, changed("0.weight", math.inf))
    assert "the update of 0 is zero" in refusal(target, changed("0.weight", 0.0))
    assert "the update of 3 is zero" in refusal(target, changed("3.bias", 0.0))


def test_refuses_an_update_that_the_loss_cannot_have() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 1, bias=False))
    target, observation, _ = make(net, SMALL, image(), 1, 2, binary=True)
    impossible = -net[1].weight.detach() / net[1].weight.detach().square().sum()  # ⟨G, W⟩ = -1 < -0.2785
    assert "no input of 1 explains" in refusal(target, replace(observation, update={"1.weight": impossible}))


# ---- laws -----------------------------------------------------------------------------------------------------------


def random_chain(seed: int) -> nn.Sequential:
    """A bias-free LeakyReLU network whose layers are not deficient."""
    pick = np.random.default_rng(seed)
    first, second = int(pick.integers(12, 20)), int(pick.integers(12, 20))
    k = int(pick.integers(2, 5))
    layers: list[nn.Module] = [nn.Conv2d(3, first, k, int(pick.integers(1, 3)), k // 2, bias=False), leaky()]
    layers += [nn.Conv2d(first, second, 3, 1, 1, bias=False), leaky()]
    return small(*layers, classes=5, seed=seed, bias=False)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_of_full_rank_are_exact(seed: int) -> None:
    target, observation, truth = make(random_chain(seed), SMALL, image(seed), seed % 5, 5, dtype=torch.float64)
    result = attack(target, observation)
    assert error(result, truth) < 1e-16 * float(truth.square().mean())
    assert result.exact
    assert result.labels.tolist() == [seed % 5]


def twin_case() -> tuple[Target, Observation, Tensor]:
    """A network whose logit on the image is large enough for its twin to be a valid image as well."""
    net = small(nn.Conv2d(3, 8, 3, padding=1, bias=False), leaky(), classes=1, bias=False)
    with torch.no_grad():
        logit = net(SMALL.encode(image()))
        net[-1].weight.mul_(2.0 / logit.item())
    return make(net, SMALL, image(), 1, 2, binary=True, dtype=torch.float64)


def test_twins_regenerate_the_same_update() -> None:
    target, observation, truth = twin_case()
    result = attack(target, observation)
    assert error(result, truth) < 1e-15
    assert result.labels.tolist() == [1]
    assert any("twins" in note for note in result.notes)
    (twin,) = [s.inputs for s in result.snapshots]
    ratio = float((twin * truth).sum() / truth.square().sum())
    assert torch.allclose(twin, ratio * truth, atol=1e-6)
    assert ratio < 0.99
    again = target.gradient(twin, torch.tensor([1]))
    for name, gradient in observation.update.items():
        assert torch.allclose(again[name], gradient, rtol=1e-6, atol=1e-12)


def test_a_twin_that_nothing_rules_out_is_not_called_exact() -> None:
    target, _, truth = twin_case()
    pixels = SMALL.decode(truth + 1e-2 * torch.rand_like(truth))  # off the 8-bit grid
    target, observation, _ = make(target.module, SMALL, pixels, 1, 2, binary=True, dtype=torch.float64)
    result = attack(target, observation)
    assert result.residual < 1e-6
    assert not result.exact
    assert any("the choice is a guess" in note for note in result.notes)


def test_hidden_channels_may_be_permuted_and_rescaled() -> None:
    net = random_chain(1)
    target, observation, truth = make(net, SMALL, image(), 1, 5, dtype=torch.float64)
    before = attack(target, observation).inputs
    with torch.no_grad():
        order = torch.randperm(net[0].out_channels, generator=torch.Generator().manual_seed(0))
        factor = torch.linspace(0.5, 2.0, len(order), dtype=torch.float64)
        net[0].weight.copy_(net[0].weight[order] * factor.view(-1, 1, 1, 1))
        net[2].weight.copy_(net[2].weight[:, order] / factor.view(1, -1, 1, 1))
    target, observation, truth = make(net, SMALL, image(), 1, 5, dtype=torch.float64)
    after = attack(target, observation).inputs
    assert torch.allclose(before, after, atol=1e-7)
    assert torch.allclose(after, truth, atol=1e-7)


def test_error_grows_in_proportion_to_noise_until_signs_flip() -> None:
    convolutions = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), leaky(), nn.Conv2d(16, 16, 3, 1, 1, bias=False), leaky()]
    target, observation, truth = make(small(*convolutions), SMALL, image(), 1, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(g.shape, generator=generator, dtype=g.dtype) for n, g in observation.update.items()}

    def distance(level: float) -> float:
        noisy = {n: g + level * g.square().mean().sqrt() * noise[n] for n, g in observation.update.items()}
        return error(attack(target, replace(observation, update=noisy)), truth) ** 0.5

    levels = [1e-9, 1e-7, 1e-5]
    slope = np.polyfit(np.log(levels), np.log([distance(level) for level in levels]), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
    assert distance(0.1) > 1e-2


def test_exact_zeros_of_a_black_background_keep_their_slope() -> None:
    space = Images((3, 12, 12), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels = image()
    pixels[:, :, :, 5:] = 0.0
    target, observation, truth = make(random_chain(3), space, pixels, 1, 5)
    result = attack(target, observation)
    assert error(result, truth) < 1e-9
    assert result.exact


def test_a_monitor_that_is_out_of_time_stops_it() -> None:
    class Impatient:
        def update(self, fraction: float, objective: float) -> None:
            assert 0 <= fraction <= 1

        def should_stop(self) -> bool:
            return True

        def seconds_left(self) -> float | None:
            return 0.0

    target, observation, _ = make(small(nn.Conv2d(3, 8, 3, padding=1), leaky()), SMALL, image(), 1, 5)
    result = RGAP(RGAP.presets["standard"])(target, observation, cpu_generator(0), Impatient())
    assert result.stopped
    assert not result.exact
