"""Text classifiers with low-rank adapters on queries and values, written by hand and by peft."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, CLASSES, WIDTH, RANK = 48, 3, 32, 8


class LoRA(nn.Module):
    """``y = (W + B A) x`` with W frozen and B = 0 at first (Hu et al. 2022), its parts named as peft does."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = layer.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, layer.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.lora_B["default"](self.lora_A["default"](x))
        return out


class Attention(nn.Module):
    """Attention with a skip connection, its queries and values adapted."""

    def __init__(self, causal: bool, rank: int) -> None:
        super().__init__()
        self.causal, self.norm = causal, nn.LayerNorm(WIDTH)
        self.q, self.v = (LoRA(nn.Linear(WIDTH, WIDTH), rank) for _ in range(2))
        self.k, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (m(h).unflatten(-1, (4, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        added: Tensor = x + self.out(mixed.transpose(1, 2).flatten(2))
        return added


class Adapted(nn.Module):
    """Frozen embeddings and two layers of attention with adapters; the head is trained beside them."""

    def __init__(self, length: int, causal: bool = False, rank: int = RANK) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(1, length, WIDTH))
        self.layers = nn.Sequential(*(Attention(causal, rank) for _ in range(2)))
        self.head = nn.Linear(WIDTH, CLASSES)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("lora" in name or "head" in name)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.layers(self.table(ids) + self.positions))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


def warmed(module: nn.Module) -> nn.Module:
    """After some rounds: B is not zero any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module
