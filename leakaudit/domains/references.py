"""Bundled reference networks that are known to leak: what the positive control attacks. Made in code, nothing loaded.

Each takes the input shape and the classes of the model under audit, so that an attack that works at all works on one
of them with a single sample. Those that optimisation attacks are tried on also take its size, and are chosen by whether
it convolves: what recovers a small network says little of a large one, and a dense one little of a convolution.

* ``mlp``: one hidden layer of sigmoid units with biases. Read by the first-layer reader, matched by every optimisation
  attack.
* ``relu-mlp``: the same with ReLU, whose sparse errors SPEAR needs.
* ``dropout-mlp``: with dropout 0.5 in train mode, for attacks on unknown masks.
* ``leaky-cnn``: an invertible convolution and a linear layer, which R-GAP solves.
* ``lenet``: three convolutions and two linear layers of GELU units, which take more steps than one hidden layer.
* ``dropout-lenet``: with dropout 0.5 before its linear layers in train mode.
* ``batchnorm-lenet``: with BatchNorm behind its convolutions, whose statistics are those of samples.
* ``patches``: a patch embedding, positions and one attention layer, as APRIL reads them.
* ``text``: token embeddings with learned positions, for attacks on token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

HIDDEN = 64
"""Width of the hidden layers; chosen."""
CHANNELS = 12
"""Channels of the convolutions at their smallest, those of `lenet` in `benchmarks/networks.py`."""
UNITS = 256
"""Units behind the convolutions at their smallest, those of `lenet` in `benchmarks/networks.py`."""
MOST_TIMES = 64
"""How many times as wide a network is made, at most; chosen, a LeNet of 32 px then has 75 million parameters."""
VOCABULARY = 500
"""Tokens of the bundled text network; chosen."""
TOKENS = 8
"""Patches along one side of the image, at most; chosen."""


@dataclass(frozen=True)
class Reference:
    """A network that leaks.

    Args:
        name: For the report.
        build: From the shape of a sample and the number of classes to the module.
        mode: Mode of its client.
        widen: As `build`, and how many times as wide; ``None`` where it has one size.
        convolves: Whether it stands for networks with convolutions.
    """

    name: str
    build: Callable[[Sequence[int], int], nn.Module]
    mode: Literal["eval", "train"] = "eval"
    widen: Callable[[Sequence[int], int, int], nn.Module] | None = None
    convolves: bool = False

    def like(self, shape: Sequence[int], classes: int, parameters: int) -> Reference:
        """The widest of its sizes that has no more parameters than this, or the smallest."""
        if self.widen is None:
            return self
        widen, factor = self.widen, 1
        while factor < MOST_TIMES and _size(widen, shape, classes, 2 * factor) <= parameters:
            factor *= 2
        return replace(self, build=partial(_widened, widen, factor))


def _widened(
    widen: Callable[[Sequence[int], int, int], nn.Module], factor: int, shape: Sequence[int], classes: int
) -> nn.Module:
    return widen(shape, classes, factor)


def _size(
    widen: Callable[[Sequence[int], int, int], nn.Module], shape: Sequence[int], classes: int, factor: int
) -> int:
    """Parameters, counted without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in widen(shape, classes, factor).parameters())


CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of axes that a sample has beside its channels, by definition."""
NORMS: dict[int, Callable[..., nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""By the same number, by definition."""


class _Patches(nn.Module):
    """A patch embedding with learned positions, single-head attention, and a linear head on the mean token."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        patch = (_divisor(height), _divisor(width))
        tokens = (height // patch[0]) * (width // patch[1])
        size = max(2 * tokens, HIDDEN)
        self.embed = nn.Conv2d(channels, size, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, size))
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.head = nn.Linear(size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / tokens.shape[-1] ** 0.5
        logits: Tensor = self.head((tokens + scores.softmax(-1) @ self.value(tokens)).mean(1))
        return logits


def _divisor(side: int) -> int:
    """The smallest patch side that divides an image side into at most `TOKENS` patches."""
    return next(size for size in range(1, side + 1) if side % size == 0 and side // size <= TOKENS)


class _Text(nn.Module):
    """Token embeddings with learned positions, a unit layer per token, and a linear head on their mean."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, HIDDEN)
        self.position = nn.Parameter(torch.randn(shape[-1], HIDDEN))
        self.units, self.head = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, K) of token ids (B, L)."""
        logits: Tensor = self.head(torch.tanh(self.units(self.table(ids) + self.position)).mean(1))
        return logits


def _mlp(activation: Callable[[], nn.Module], dropout: float = 0.0) -> Callable[..., nn.Module]:
    def build(shape: Sequence[int], classes: int, factor: int = 1) -> nn.Module:
        width = factor * HIDDEN
        layers = [nn.Flatten(), nn.Linear(prod(shape), width), activation(), *_dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(width, classes))

    return build


def _lenet(dropout: float = 0.0, *, batchnorm: bool = False) -> Callable[..., nn.Module]:
    """The LeNet of `benchmarks/networks.py` for any shape: convolutions of 5 values a side with strides 2, 2 and 1."""

    def build(shape: Sequence[int], classes: int, factor: int = 1) -> nn.Module:
        width, units = factor * CHANNELS, factor * UNITS
        convolution, norm = CONVOLUTIONS[len(shape) - 1], NORMS[len(shape) - 1]
        layers: list[nn.Module] = []
        for inputs, stride in ((shape[0], 2), (width, 2), (width, 1)):
            layers += [convolution(inputs, width, 5, stride, 2), *([norm(width)] if batchnorm else [])]
            layers.append(nn.GELU())
        flat = width * prod(-(-side // 4) for side in shape[1:])  # two strides of 2, each rounded up
        layers += [nn.Flatten(), *_dropout(dropout), nn.Linear(flat, units), nn.GELU(), *_dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(units, classes))

    return build


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate else []


def _sized(
    name: str, widen: Callable[..., nn.Module], mode: Literal["eval", "train"] = "eval", *, convolves: bool = False
) -> Reference:
    return Reference(name, widen, mode, widen, convolves)


def _leaky_cnn(shape: Sequence[int], classes: int) -> nn.Module:
    channels, *sides = shape
    convolution = CONVOLUTIONS[len(sides)](channels, 2 * channels, 3, padding=1)
    return nn.Sequential(convolution, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(2 * channels * prod(sides), classes))


REFERENCES = (
    _sized("mlp", _mlp(nn.Sigmoid)),
    Reference("relu-mlp", _mlp(nn.ReLU)),
    _sized("dropout-mlp", _mlp(nn.GELU, 0.5), "train"),
    Reference("leaky-cnn", _leaky_cnn),
    _sized("lenet", _lenet(), convolves=True),
    _sized("dropout-lenet", _lenet(0.5), "train", convolves=True),
    _sized("batchnorm-lenet", _lenet(batchnorm=True), convolves=True),
    Reference("patches", _Patches),
)
"""The networks for images; their dropout rate and slope are chosen, the rates of `benchmarks/anchors.py` and the slope
of R-GAP's own networks (arXiv 2010.07733)."""
SIGNAL_REFERENCES = VOLUME_REFERENCES = REFERENCES[:-1]
"""The same without patches, for signals and for volumes, whose convolutions have one axis and three; by definition."""
TEXT_REFERENCES = (Reference("text", _Text),)
TABLE_REFERENCES = tuple(reference for reference in REFERENCES if reference.name in ("mlp", "relu-mlp", "dropout-mlp"))
"""Those of the networks for images that take vectors."""
