"""Small networks over signals, sequences of features, and volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A recurrent layer over (B, T, F) and a linear head on its last state, or on the mean of all."""

    def __init__(self, kind: type[nn.RNNBase], both: bool = False, width: int = 6, pooled: bool = False) -> None:
        super().__init__()
        self.layer, self.pooled = kind(4, width, batch_first=True, bidirectional=both), pooled
        self.head = nn.Linear(2 * width if both else width, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.layer(x)[0]
        logits: Tensor = self.head(states.mean(1) if self.pooled else states[:, -1])
        return logits


class Attention(nn.Module):
    """An attention layer over (B, T, F), each step projected by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.layer = nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.project(x)).mean(1))
        return logits


class Moved(nn.Module):
    """A convolution in time over (B, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.layer(x.transpose(1, 2))).flatten(1))
        return logits


class OneChannel(nn.Module):
    """A convolution in time over (B, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv1d(1, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.layer(x[:, None])).flatten(1))
        return logits


def ecg() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 5, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 8, 3))


def volume(channels: int = 2) -> nn.Module:
    norms = nn.InstanceNorm3d(4, affine=True), nn.GroupNorm(2, 4)
    layers = [nn.Conv3d(channels, 4, 3, padding=1), norms[0], nn.Tanh(), nn.Conv3d(4, 4, 1), norms[1], nn.Tanh()]
    return nn.Sequential(*layers, nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4 * 2 * 3 * 2, 3))
