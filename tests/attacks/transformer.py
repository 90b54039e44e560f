"""A block of attention and its perceptron, as vision transformers and text models have it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """One encoder layer: attention, then two linear layers, each with or without normalisation and skip connection."""

    def __init__(self, width: int, heads: int, norm: bool, skip: bool) -> None:
        super().__init__()
        self.heads, self.skip = heads, skip
        self.norms = nn.ModuleList([nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        shaped = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = shaped.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.skip * x + self.attend(self.norms[0](x))
        return self.skip * x + self.mlp(self.norms[1](x))
