"""Smallest cuts of blocks with several paths against the measured rank of their Jacobian."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from leakaudit.risk.chain import segments
from leakaudit.risk.flow import uncovered
from leakaudit.risk.jacobian import Subgraph, segment_rank
from leakaudit.risk.rank import annotate, rank_analysis
from leakaudit.risk.structural import StructuralRank
from leakaudit.target.inventory import inventory, layers_and_outputs
from leakaudit.target.target import Target
from leakaudit.target.trace import trace
from tests.risk.nets import Residual, conv, leaky, target

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (leaky, nn.GELU, nn.Tanh)


class Branched(nn.Module):
    """f(x) + skip(x), f(x) · sigmoid(skip(x)) or [f(x), skip(x)], then perhaps an activation."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose, activation = random.Random(seed).choice, random.Random(seed).choice(ACTIVATIONS)
        self.channels, middle, self.join = choose((2, 3, 4, 6)), choose((1, 2, 4)), choose(("add", "concat", "gate"))
        stride = choose((1, 2)) if self.join != "gate" else 1
        out = choose((2, 4, 8)) if self.join == "concat" or stride > 1 else self.channels
        self.f = nn.Sequential(
            conv(self.channels, middle, 3, stride, 1), nn.BatchNorm2d(middle), activation(), conv(middle, out, 3, 1, 1)
        )
        plain = self.join == "add" and stride == 1
        self.skip = nn.Identity() if plain else conv(self.channels, out, 1, stride, bias=True)
        self.last = choose((nn.Identity, activation))()

    def forward(self, x: Tensor) -> Tensor:
        y, skip = self.f(x), self.skip(x)
        if self.join == "concat":
            joined = torch.cat([y, skip], 1)
        else:
            joined = y + skip if self.join == "add" else y * skip.sigmoid()
        result: Tensor = self.last(joined)
        return result


def counted_and_measured(model: Target) -> tuple[StructuralRank, int]:
    recorded = trace(model)
    layers, _ = layers_and_outputs(recorded)
    (part,) = segments(annotate(layers, model))
    assert part.system is not None
    function = Subgraph(recorded, recorded.input, recorded.output, frozenset(model.parameters))
    found = segment_rank(function, torch.Generator().manual_seed(0))
    assert found is not None
    return part.system, found.joint


def test_random_blocks_are_never_below_the_measured_rank() -> None:
    exact = 0
    for seed in range(24):
        torch.manual_seed(seed)
        block = Branched(seed)
        counted, measured = counted_and_measured(target(block, (block.channels, 6, 6)))
        assert counted.rank >= measured, seed
        exact += counted.rank == measured
    assert exact >= 15


@pytest.mark.parametrize(("middle", "expected"), [(8, (1152, 1152, 1152)), (2, (288, 1152, 1152))])
def test_residual_blocks_of_the_segment_table(middle: int, expected: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    (part,) = segments(inventory(target(Residual(8, middle), (8, 12, 12))))
    assert part.system is not None
    assert (part.system.gradient_rank, part.system.weight_rank, part.system.rank) == expected
    assert part.bound


def test_relu_in_a_block_hides_half_of_what_passes_it() -> None:
    torch.manual_seed(0)
    (part,) = segments(inventory(target(Residual(8, 1, nn.ReLU), (8, 12, 12))))
    assert part.system is not None
    assert part.local is not None
    assert (part.system.weight_rank, part.local.weight_rank) == (1152, 576)


def test_a_deep_residual_network_gets_a_score_and_names_its_bounds() -> None:
    torch.manual_seed(0)
    blocks = [Residual(16, 16, nn.ReLU) for _ in range(3)]
    model = target(
        nn.Sequential(conv(3, 16, 3, 1, 1), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(16 * 1024, 4)), (3, 32, 32), 4
    )
    report = rank_analysis(model)
    assert report.score is not None
    rows = [row for row in report.layers if row.kind == "block"]
    assert len(rows) == 3
    assert all("upper bound" in row.note and not row.measured and row.unique is None and row.bound for row in rows)


class Transformer(nn.Module):
    """A block of a transformer over the places of a picture, in the ways in which it is written."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = random.Random(seed).choice
        self.places, self.width, self.heads = choose((4, 9, 16)), choose((4, 6, 8)), choose((1, 2))
        hidden, self.first, self.kept = choose((1, 2, 12)), choose((True, False)), choose((1, 2))
        self.norm = nn.LayerNorm(self.width)
        self.qkv = nn.Linear(self.width, 6 * self.heads, bias=choose((True, False)))
        self.out = nn.Linear(2 * self.heads, 1)
        self.mixing = nn.Sequential(nn.Linear(self.width, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.attends = choose((True, False))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        h = self.norm(x) if self.first else x
        if self.attends:
            q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            scores = (q @ k.transpose(-1, -2) / self.width**0.5).softmax(-1)
            h = self.out((scores @ v).transpose(1, 2).flatten(2))
        else:
            h = self.mixing(h)
        joined: Tensor = torch.cat([h, x[..., : self.kept]], -1)
        return joined


def test_random_blocks_of_transformers_are_never_below_the_measured_rank() -> None:
    exact = 0
    for seed in range(24):
        torch.manual_seed(seed)
        block = Transformer(seed)
        counted, measured = counted_and_measured(target(block, (block.width, block.places, 1)))
        assert counted.rank >= measured, seed
        exact += counted.rank == measured
    assert exact >= 10


def test_attention_of_a_whole_model_is_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.head = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            t = x.flatten(1).view(-1, 8, 8)
            mixed = (self.q(t) @ self.k(t).transpose(1, 2)).softmax(-1) @ self.v(t)
            result: Tensor = self.head(mixed.flatten(1))
            return result

    report = rank_analysis(target(Attention(), (1, 8, 8), 4), seconds=0.0)
    assert report.level == "identifiable"
    assert any("at most 64 of 64" in note for note in report.notes)


def test_an_operator_that_is_not_known_is_named() -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 8), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            t = self.first(x.flatten(1).view(-1, 8, 8))
            result: Tensor = self.head((t.sort(-1).values + t).flatten(1))
            return result

    assert "sort" in uncovered(inventory(target(Sorting(), (1, 8, 8), 4)))
    report = rank_analysis(target(Sorting(), (1, 8, 8), 4), seconds=0.0)
    assert report.level == "counts unavailable"
    assert "sort" in report.score_reason
