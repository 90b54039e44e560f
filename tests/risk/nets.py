"""The networks of the golden table: R-GAP's CNN6, CNN6-d and FCN3, the LeNet of gradient matching, LeNet-5."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from leakaudit.domains.images import Images
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import OneLogit, SingleLabel

Act = Callable[[], nn.Module]


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


def conv(i: int, o: int, k: int, s: int = 1, p: int = 0, *, groups: int = 1, bias: bool = False) -> nn.Module:
    return nn.Conv2d(i, o, k, s, p, groups=groups, bias=bias)


def target(module: nn.Module, shape: tuple[int, int, int], classes: int = 10, *, train: bool = False) -> Target:
    task = OneLogit() if classes == 2 else SingleLabel(classes)
    return Target(module.train(train), "net", "module", shape, "NCHW", Images.plain(shape), task)


def cnn6(middle: int = 36) -> Target:
    """CNN6; with ``middle=20`` the rank-deficient CNN6-d."""
    torch.manual_seed(0)
    shapes = [(3, 12, 4, 2, 2), (12, middle, 3, 2, 1), (middle, 36, 3, 1, 1), (36, 36, 3, 1, 1), (36, 64, 3, 2, 1)]
    layers: list[nn.Module] = []
    for shape in [*shapes, (64, 128, 3, 1, 1)]:
        layers += [conv(*shape), leaky()]
    return target(nn.Sequential(*layers, nn.Flatten(), nn.Linear(3200, 1, bias=False)), (3, 32, 32), 2)


def fcn3() -> Target:
    torch.manual_seed(0)
    sizes = [(784, 1000), (1000, 100), (100, 1)]
    layers = [part for n, f in sizes for part in (nn.Linear(n, f, bias=False), leaky())]
    return target(nn.Sequential(nn.Flatten(), *layers[:-1]), (1, 28, 28), 2)


def lenet(act: Act = nn.Sigmoid) -> Target:
    torch.manual_seed(0)
    body = [part for i, s in ((3, 2), (12, 2), (12, 1)) for part in (conv(i, 12, 5, s, 2, bias=True), act())]
    return target(nn.Sequential(*body, nn.Flatten(), nn.Linear(768, 10)), (3, 32, 32))


def lenet5(act: Act = nn.Tanh, pool: Callable[[int], nn.Module] = nn.AvgPool2d) -> Target:
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 6, 5, padding=2), act(), pool(2), nn.Conv2d(6, 16, 5), act(), pool(2), nn.Flatten()]
    head = [nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10)]
    return target(nn.Sequential(*body, *head), (1, 28, 28))


class Residual(nn.Module):
    """x + conv(act(conv(x))), then the activation."""

    def __init__(self, channels: int, middle: int, act: Act = leaky) -> None:
        super().__init__()
        self.first, self.second = conv(channels, middle, 3, 1, 1), conv(middle, channels, 3, 1, 1)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(x + self.second(self.act(self.first(x))))
        return result
