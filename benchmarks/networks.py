"""The networks and victims of the measurements: those of the papers, rebuilt from their descriptions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.dropout import Dropout, dropout_layers
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

DATA = Path(os.environ.get("LEAKAUDIT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CIFAR = Images((3, 32, 32), (0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159))
MNIST = Images((1, 28, 28), (0.13066,), (0.30811,))


def mlp(p: float = 0.0) -> nn.Module:
    """3 hidden layers of 512 GELU units without bias, dropout behind each (Scheliga et al. 2022)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in (3072, 512, 512):
        layers += [nn.Linear(width, 512, bias=False), nn.GELU(), Dropout(p)]
    return nn.Sequential(*layers, nn.Linear(512, 10, bias=False))


def lenet(p: float = 0.0, conv: float = 0.0, activation: Callable[[], nn.Module] = nn.GELU) -> nn.Module:
    """Three 5×5 convolutions, two linear layers with dropout before each, and optionally dropout on the first map."""
    first: list[nn.Module] = [nn.Conv2d(3, 12, 5, 2, 2), activation()]
    if conv:
        first.append(Dropout(conv))
    return nn.Sequential(
        *first,
        nn.Conv2d(12, 12, 5, 2, 2),
        activation(),
        nn.Conv2d(12, 12, 5, 1, 2),
        activation(),
        nn.Flatten(),
        Dropout(p),
        nn.Linear(768, 256),
        activation(),
        Dropout(p),
        nn.Linear(256, 10),
    )


def lenet_zhu() -> nn.Module:
    """The LeNet of DLG: sigmoids, weights and biases from U(-.5, .5)."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 12, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, 2, 2), nn.Sigmoid()),
        *(nn.Conv2d(12, 12, 5, 1, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(768, 10)),
    )
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return net


def convnet64() -> nn.Module:
    """ConvNet-64 of IG: eight 3×3 convolutions of 64 to 256 channels with BatchNorm and ReLU, two max-pools."""
    layers: list[nn.Module] = []
    channels = (3, 64, 128, 128, 256, 256, 256, 256, 256)
    for number, (inputs, outputs) in enumerate(pairwise(channels), start=1):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        if number in (6, 8):
            layers.append(nn.MaxPool2d(3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36 * 64, 10))


def resnet18() -> nn.Module:
    """ResNet-18 for 32 px: a 3×3 stem without pooling."""
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net


def toy_batchnorm() -> nn.Module:
    """Three convolutions with BatchNorm and ReLU, 66,730 parameters: the network of the GI-PIP comparison."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(1024, 10))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, p: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attention, self.drop = Dropout(p, "attention"), Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.attention((q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1))
        return self.drop(self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, p: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), _Attention(width, heads, p)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), Dropout(p), nn.Linear(width, width), Dropout(p))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """The small vision transformer of Scheliga et al.: patch 4, width 256, depth 4, 16 heads.

    1,612,554 parameters for CIFAR images, 1,600,522 for MNIST.
    """

    def __init__(
        self, p: float = 0.0, width: int = 256, depth: int = 4, heads: int = 16, space: Images = CIFAR
    ) -> None:
        super().__init__()
        self.channels, self.side = space.shape[0], space.shape[1] // 4
        self.patch = nn.Linear(16 * self.channels, width)
        self.position = nn.Parameter(torch.randn(1, self.side**2 + 1, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.drop = Dropout(p)
        self.blocks = nn.Sequential(*[_Block(width, heads, p) for _ in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        batch, side = x.shape[0], self.side
        patches = x.view(batch, self.channels, side, 4, side, 4).permute(0, 2, 4, 3, 5, 1).reshape(batch, side**2, -1)
        tokens = torch.cat([self.token.expand(batch, -1, -1), self.patch(patches)], 1) + self.position
        return self.head(self.blocks(self.drop(tokens))[:, 0])


def target(build: Callable[[], nn.Module], seed: int = 0, space: Images = CIFAR) -> Target:
    """A network with seeded weights, in eval mode, as a Target of images of ten classes."""
    torch.manual_seed(seed)
    return Target(build().eval(), build.__name__, "module", space.shape, "NCHW", space, SingleLabel(10))


def samples(space: Images) -> tuple[Tensor, Tensor]:
    """Test images (N, C, H, W) of CIFAR or MNIST, in 0..1, and labels (N,)."""
    return cifar("mnist_test.npz" if space == MNIST else "cifar10_test.npz")


def cifar(name: str = "cifar10_test.npz") -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) in 0..1 and labels (N,)."""
    with np.load(DATA / "images" / name) as file:
        return torch.from_numpy(file["x"]).float() / 255, torch.from_numpy(file["y"]).long()


def victim(net: Target, images: Tensor, labels: Tensor, seed: int = 0, space: Images = CIFAR) -> Observation:
    """The observation of a batch: train mode where the network has dropout, with the masks recorded for WIA."""
    dropped = any(layer.p > 0 for layer in dropout_layers(net.module).values())
    protocol = FedSGD(len(images), mode="train" if dropped else "eval")
    batch = Batch(images, labels, tuple(range(len(images))))
    observation, masks = observe_step(net, batch, protocol, space, seed)
    return replace(observation, labels=labels, label_source="given", masks=masks or None)


def distinct(labels: Tensor, size: int, seed: int) -> Tensor:
    """Positions of `size` samples of pairwise distinct classes."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen: list[int] = []
    for position in order.tolist():
        if int(labels[position]) not in [int(labels[c]) for c in chosen]:
            chosen.append(position)
        if len(chosen) == size:
            break
    return torch.tensor(chosen)


def psnr(inputs: Tensor, images: Tensor, space: Images = CIFAR) -> float:
    """Mean PSNR in 0..1 of reconstructions in normalised space, sample by sample in the given order."""
    error = (space.decode(inputs.cpu()) - images).square().flatten(1).mean(1)
    return float((-10 * error.clamp_min(1e-12).log10()).mean())
