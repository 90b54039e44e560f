"""Bundled reference networks that are known to leak: what the positive control attacks. Made in code, nothing loaded.

Each takes the input shape and the classes of the model under audit, so that an attack that works at all works on one
of them with a single sample:

* ``mlp``: one hidden layer of sigmoid units with biases. Read by the first-layer reader, matched by every optimisation
  attack.
* ``relu-mlp``: the same with ReLU, whose sparse errors SPEAR needs.
* ``dropout-mlp``: with dropout 0.5 in train mode, for attacks on unknown masks.
* ``leaky-cnn``: an invertible convolution and a linear layer, which R-GAP solves.
* ``patches``: a patch embedding, positions and one attention layer, as APRIL reads them.
* ``text``: token embeddings with learned positions, for attacks on token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

HIDDEN = 64
"""Width of the hidden layers; chosen."""
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
    """

    name: str
    build: Callable[[Sequence[int], int], nn.Module]
    mode: Literal["eval", "train"] = "eval"


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


def _mlp(activation: Callable[[], nn.Module], *extra: nn.Module) -> Callable[[Sequence[int], int], nn.Module]:
    def build(shape: Sequence[int], classes: int) -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(prod(shape), HIDDEN), activation(), *extra]
        return nn.Sequential(*layers, nn.Linear(HIDDEN, classes))

    return build


def _leaky_cnn(shape: Sequence[int], classes: int) -> nn.Module:
    channels, height, width = shape
    convolution = nn.Conv2d(channels, 2 * channels, 3, padding=1)
    return nn.Sequential(
        convolution, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(2 * channels * height * width, classes)
    )


REFERENCES = (
    Reference("mlp", _mlp(nn.Sigmoid)),
    Reference("relu-mlp", _mlp(nn.ReLU)),
    Reference("dropout-mlp", _mlp(nn.GELU, nn.Dropout(0.5)), "train"),
    Reference("leaky-cnn", _leaky_cnn),
    Reference("patches", _Patches),
)
"""The networks for images; their dropout rate and slope are chosen, the rates of `benchmarks/anchors.py` and the slope
of R-GAP's own networks (arXiv 2010.07733)."""
TEXT_REFERENCES = (Reference("text", _Text),)
