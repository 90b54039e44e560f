"""Second derivatives of every operator in the classifiers that torch ships, and wrappers that stand in their way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from leakaudit.target import Target, load
from tests.target.graphs import second_derivative_error

aten = torch.ops.aten
NAMES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
)  # fmt: skip


class Calls(nn.Module):
    """A convolution, a function, a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function, self.head = nn.Conv2d(3, 4, 3, padding=1), function, nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(2 * self.conv(x)).flatten(1))


def hard_forms() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "F.hardsigmoid": F.hardsigmoid, "F.hardswish": F.hardswish, "F.hardtanh": F.hardtanh, "F.relu6": F.relu6,
        "in place": lambda x: F.hardsigmoid(x + 0, inplace=True), "nn.Hardsigmoid": nn.Hardsigmoid(),
        "aten.hardsigmoid": aten.hardsigmoid.default, "aten.hardswish_": lambda x: aten.hardswish_.default(x + 0),
        "native_batch_norm": lambda x: aten.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0],
        "batch_norm of an export": lambda x: aten._native_batch_norm_legit_no_training(
            x, None, None, torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype), 0.1, 1e-5
        )[0],
    }  # fmt: skip


@pytest.mark.parametrize("name", hard_forms())
def test_second_derivatives_are_those_of_differences(name: str) -> None:
    torch.manual_seed(1)
    function = hard_forms()[name]
    model = Calls(function)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 2 - 1
    values = copy.deepcopy(model)(x) if isinstance(function, nn.Module) else Calls.forward(model, x)
    target = load(model, image_shape=(3, 8, 8))
    assert "LA930" not in {note.id for note in target.fidelity}
    torch.testing.assert_close(target.logits(x), values)
    assert second_derivative_error(target, x) < 1e-4


def test_exported_hard_sigmoid(tmp_path: Path) -> None:
    model = Calls(F.hardsigmoid).eval()
    x = torch.rand(2, 3, 8, 8)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    target = load(tmp_path / "m.pt2", trust=True)
    assert "LA930" not in {note.id for note in target.fidelity}
    torch.testing.assert_close(target.logits(x), model(x))


def of_zoo(name: str) -> Target:
    torch.manual_seed(0)
    side = {"vit_b_32": 224}.get(name, 64)
    return load(getattr(tv, name)(num_classes=10), image_shape=(3, side, side))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES)])
def test_classifiers_that_torch_ships_have_second_derivatives(name: str) -> None:
    assert "LA930" not in {note.id for note in of_zoo(name).fidelity}


class GradSampleModule(nn.Module):
    """Opacus' wrapper as far as it matters: hooks on the inside that fail outside of its training."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self._module = inside
        for child in inside.modules():
            child.register_forward_hook(self.capture)

    def capture(self, *_: object) -> None:
        raise RuntimeError("no per-sample gradient here")

    def forward(self, x: Tensor) -> Tensor:
        return self._module(x)


@pytest.mark.parametrize("wrap", [GradSampleModule, nn.DataParallel, torch.compile, torch.jit.script])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))
    wrapper = wrap(copy.deepcopy(plain))
    hooks = sum(len(m._forward_hooks) for m in wrapper.modules()) if isinstance(wrapper, GradSampleModule) else 0
    target = load(wrapper, image_shape=(3, 2, 2))
    x, y = torch.rand(2, 3, 2, 2), torch.tensor([0, 3])
    assert list(target.parameters) == [name for name, _ in plain.named_parameters()]
    expected = load(plain, image_shape=(3, 2, 2)).gradient(x, y)
    for name, value in target.gradient(x, y).items():
        torch.testing.assert_close(value, expected[name])
    if hooks:
        assert sum(len(m._forward_hooks) for m in wrapper.modules()) == hooks
