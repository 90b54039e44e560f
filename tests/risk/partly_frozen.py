"""Random networks of which some layers are not trained, and the rank of their update's Jacobian in float64."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from leakaudit.target.target import Target
from tests.risk.nets import Act, Residual, conv, leaky, target

ACTIVATIONS: tuple[Act, ...] = (leaky, nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU)
POOLS = (nn.Identity, nn.Identity, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2))
HABITS = ("probe", "prefix", "suffix", "random", "bitfit", "norms", "adapters", "middle")


class Adapter(nn.Module):
    """x + up(act(down(x))), the layer that adapters add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.up(torch.tanh(self.down(x)))
        return result


def fine_tuned(seed: int, size: int = 6) -> Target:
    """A network of 1 to 3 convolutions, in one of the habits of fine-tuning, at least one layer frozen."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    habit, act = draw.choice(HABITS), draw.choice(ACTIVATIONS)
    channels, side, body = 3, size, []
    for _ in range(draw.randint(1, 3)):
        width, stride = draw.choice((2, 4, 6, 8)), draw.choice((1, 1, 2))
        kernel = draw.choice((1, 3))
        body += [conv(channels, width, kernel, stride, kernel // 2, bias=draw.random() < 0.6)]
        if habit == "norms" or draw.random() < 0.2:
            body.append(draw.choice((nn.BatchNorm2d(width), nn.GroupNorm(2, width))))
        body.append(act())
        channels, side = width, (side - 1) // stride + 1
        pool = draw.choice(POOLS)()
        if side >= 4 and not isinstance(pool, nn.Identity):
            body.append(pool)
            side //= 2
        if draw.random() < 0.2:
            body.append(Residual(channels, draw.choice((2, 4)), act))
        if habit == "adapters":
            body.append(Adapter(channels))
    if draw.random() < 0.4:
        body.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    classes = draw.choice((2, 3, 5))
    outputs = 1 if classes == 2 else classes
    head: list[nn.Module] = [nn.Linear(channels * side * side, outputs, bias=draw.random() < 0.7)]
    if draw.random() < 0.3:
        head = [nn.Linear(channels * side * side, 9), act(), nn.Linear(9, outputs)]
    module = nn.Sequential(*body, nn.Flatten(), *head)
    _freeze(module, habit, draw)
    return target(module, (3, size, size), classes)


def _freeze(module: nn.Sequential, habit: str, draw: random.Random) -> None:
    """As people do it; at least one tensor stays trained."""
    parts = [part for part in module if any(True for _ in part.parameters())]
    for part in parts:
        part.requires_grad_(False)
    if habit == "probe":
        parts[-1].requires_grad_(True)
    elif habit == "prefix":
        for part in parts[draw.randint(1, len(parts) - 1) :]:
            part.requires_grad_(True)
    elif habit == "suffix":
        for part in parts[: draw.randint(1, len(parts) - 1)]:
            part.requires_grad_(True)
    elif habit == "middle":
        draw.choice(parts).requires_grad_(True)
    elif habit == "random":
        for tensor in module.parameters():
            tensor.requires_grad_(draw.random() < 0.5)
    elif habit == "bitfit":
        for name, tensor in module.named_parameters():
            tensor.requires_grad_(name.endswith("bias"))
    else:
        chosen = (nn.BatchNorm2d, nn.GroupNorm) if habit == "norms" else (Adapter,)
        for part in parts:
            part.requires_grad_(isinstance(part, chosen))
    if not any(tensor.requires_grad for tensor in module.parameters()):
        parts[-1].requires_grad_(True)


def numerical_rank(model: Target, seed: int = 0) -> int:
    """Rank of ∂g/∂x in float64 at a random sample, by autograd on the module itself."""
    generator = torch.Generator().manual_seed(seed)
    module = model.module
    tensors = {name: tensor.detach().double() for name, tensor in module.state_dict().items()}
    trained = {name: tensors[name] for name in model.parameters}
    x = torch.randn((1, *model.image_shape), generator=generator, dtype=torch.float64)
    labels = torch.tensor([0])

    def gradient(image: Tensor) -> Tensor:
        def loss(values: dict[str, Tensor]) -> Tensor:
            return model.task.loss(functional_call(module, {**tensors, **values}, (image,)), labels)

        return torch.cat([g.flatten() for g in grad(loss)(trained).values()])

    jacobian = jacrev(gradient)(x).flatten(1)
    return int(torch.linalg.matrix_rank(jacobian))
