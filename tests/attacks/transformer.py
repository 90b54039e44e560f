"""A block of attention and its perceptron, as vision transformers and text models have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.target.dropout import Dropout


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


class TinyViT(nn.Module):
    """Patches of 3×3 from 12×12 images, 16 tokens and a class token."""

    def __init__(
        self,
        width: int = 32,
        norm: bool = True,
        skip: bool = True,
        convolution: bool = True,
        drop: float = 0.0,
        learned: bool = True,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = convolution
        self.embed = nn.Conv2d(3, width, 3, 3) if convolution else nn.Linear(27, width)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.1, requires_grad=learned)
        self.drop = Dropout(drop)
        self.blocks = nn.Sequential(*(Block(width, 4, norm, skip) for _ in range(2)))
        self.head = nn.Linear(width, 5)

    def tokens(self, x: Tensor) -> Tensor:
        if self.convolution:
            return self.embed(x).flatten(2).transpose(1, 2)
        cut = x.reshape(len(x), 3, 4, 3, 4, 3).permute(0, 2, 4, 3, 5, 1)  # channels last within a patch
        return self.embed(cut.reshape(len(x), 16, 27))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.tokens(x)], 1)
        return self.head(self.blocks(self.drop(tokens + self.position)).mean(1))
