"""A small causal language model, as for ``--factory``, and texts for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, LENGTH = 60, 10


class CausalLM(nn.Module):
    """One block of causal attention; with learned positions or none, its output tied to the embedding or not;
    its layers read sample by sample, or place by place (L, B, E)."""

    def __init__(
        self, vocabulary: int = VOCABULARY, *, tied: bool = False, positions: bool = True, by_place: bool = False
    ) -> None:
        super().__init__()
        self.by_place = by_place
        width = 32
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width) * 0.1, requires_grad=positions)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, L, V)."""
        x = self.embed(ids) + self.place
        query, key, value = self._read(self.qkv, self.norm(x)).chunk(3, -1)
        mask = torch.ones(LENGTH, LENGTH).tril().log()
        scores = query @ key.transpose(1, 2) / key.shape[-1] ** 0.5 + mask
        x = x + self.out(scores.softmax(-1) @ value)
        logits: Tensor = self.head(x + self._read(self.mlp, self.last(x)))
        return logits

    def _read(self, layer: nn.Module, x: Tensor) -> Tensor:
        read: Tensor = layer(x.transpose(0, 1)).transpose(0, 1) if self.by_place else layer(x)
        return read


def language_model() -> nn.Module:
    """For ``--factory``."""
    torch.manual_seed(0)
    return CausalLM()


def texts(count: int, vocabulary: int = VOCABULARY, seed: int = 0) -> Tensor:
    """Token ids (count, LENGTH)."""
    return torch.randint(vocabulary, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
