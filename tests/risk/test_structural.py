"""Structural rank against the golden table and against measured ranks of random layers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.risk.structural import Convolution, StructuralRank, convolution_rank, linear_rank


def layer(c: int, f: int, size: int, k: int, s: int = 1, p: int = 0, groups: int = 1) -> Convolution:
    out = (size + 2 * p - k) // s + 1
    return Convolution(c, f, (size,) * 2, (k,) * 2, (s,) * 2, (p,) * 2, (1, 1), (out,) * 2, groups)


GOLDEN = [  # x, gradient, z, count, ρK, r̂, deficit
    (layer(3, 12, 32, 4, 2, 2), (3072, 576, 3468, -972, 576, 3072, 0)),
    (layer(12, 36, 17, 3, 2, 1), (3468, 3888, 2916, -3336, 2928, 3468, 0)),
    (layer(36, 36, 9, 3, 1, 1), (2916, 11664, 2916, -11664, 2916, 2916, 0)),
    (layer(36, 64, 9, 3, 2, 1), (2916, 20736, 1600, -19420, 2916, 2916, 0)),
    (layer(64, 128, 5, 3, 1, 1), (1600, 73728, 3200, -75328, 1600, 1600, 0)),
    (layer(12, 20, 17, 3, 2, 1), (3468, 2160, 1620, -312, 1968, 3188, 280)),
    (layer(20, 36, 9, 3, 1, 1), (1620, 6480, 2916, -7776, 1620, 1620, 0)),
    (layer(3, 12, 32, 5, 2, 2), (3072, 900, 3072, -900, 900, 3072, 0)),
    (layer(12, 12, 16, 5, 2, 2), (3072, 3600, 768, -1296, 2880, 3072, 0)),
    (layer(12, 12, 8, 5, 1, 2), (768, 3600, 768, -3600, 768, 768, 0)),
    (layer(3, 64, 32, 3, 1, 1), (3072, 1728, 65536, -64192, 1728, 3072, 0)),
]


def numbers(found: StructuralRank) -> tuple[int, ...]:
    counts = (found.unknowns, found.gradient, found.weight, found.index)
    return (*counts, found.gradient_rank, found.rank, found.deficit)


@pytest.mark.parametrize(("shape", "expected"), GOLDEN)
def test_golden_convolutions(shape: Convolution, expected: tuple[int, ...]) -> None:
    assert numbers(convolution_rank(shape)) == expected


def test_golden_linear() -> None:
    assert numbers(linear_rank(784, 1000)) == (784, 784000, 1000, -784216, 784, 784, 0)
    assert numbers(linear_rank(1000, 100)) == (1000, 100000, 100, -99100, 1000, 1000, 0)
    assert numbers(linear_rank(3200, 1)) == (3200, 3200, 1, -1, 3200, 3200, 0)


def test_width_threshold_of_the_deficient_layer() -> None:
    """The paper's count calls F = 20 solvable; the true threshold is 23 to 24."""
    deficits = [convolution_rank(layer(12, f, 17, 3, 2, 1)).deficit for f in (20, 21, 22, 24)]
    assert deficits == [280, 180, 82, 0]


def measured_rank(shape: Convolution, batch: int, generator: torch.Generator) -> int:
    """Rank of the stacked system by SVD in float64, with random weights, inputs and δ."""
    apply = F.conv_transpose2d if shape.transposed else F.conv2d
    inner, outer = (shape.channels, shape.filters // shape.groups), (shape.filters, shape.channels // shape.groups)
    weight = torch.randn((*(inner if shape.transposed else outer), *shape.kernel), generator=generator).double()

    def run(x: Tensor, w: Tensor) -> Tensor:
        z: Tensor = apply(
            x, w, stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=shape.groups
        )
        return z

    x = torch.randn((batch, shape.channels, *shape.size), generator=generator).double()
    delta = torch.randn(run(x, weight).shape, generator=generator).double()
    basis = torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape)
    by_weight = torch.vmap(lambda e: run(e, weight).flatten())(basis)
    by_gradient = torch.vmap(lambda e: torch.func.grad(lambda w: (run(e, w) * delta).sum())(weight).flatten())(basis)
    blocks = [m / torch.linalg.matrix_norm(m, 2).clamp_min(1e-30) for m in (by_weight, by_gradient)]
    return int(torch.linalg.matrix_rank(torch.cat(blocks, dim=1), rtol=1e-10))


def random_layer(source: random.Random, *, general: bool = False, transposed: bool = False) -> tuple[Convolution, int]:
    while True:
        k, s, p, size = source.randint(1, 4), source.randint(1, 3), source.randint(0, 2), source.randint(4, 9)
        c, f, d, groups, batch = source.randint(1, 6), source.randint(1, 10), 1, 1, 1
        kernel = (k, k)
        if general:
            d, groups, batch = source.randint(1, 2), source.choice([1, 1, 2, 3]), source.choice([1, 1, 2])
            c, f, kernel = groups * source.randint(1, 2), groups * source.randint(1, 4), (k, source.randint(1, 3))
        if transposed:
            p = min(p, k - 1)
            out = tuple((size - 1) * s - 2 * p + d * (q - 1) + 1 for q in kernel)
        else:
            out = tuple((size + 2 * p - d * (q - 1) - 1) // s + 1 for q in kernel)
        if min(out) >= 1:
            return Convolution(c, f, (size,) * 2, kernel, (s, s), (p, p), (d, d), out, groups, transposed), batch


def compare(count: int, seed: int, **options: bool) -> Counter[str]:
    """How often the structural rank is exact, below or above the measured one."""
    source, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    outcome: Counter[str] = Counter()
    for _ in range(count):
        shape, batch = random_layer(source, **options)
        true, ours = measured_rank(shape, batch, generator), convolution_rank(shape, batch)
        outcome["exact" if ours.rank == true else "below" if ours.rank < true else "above"] += 1
        outcome["flag"] += (ours.deficit > 0) == (true < ours.unknowns)
        outcome["count wrong"] += ours.index > 0 and true == ours.unknowns
        outcome["count misses"] += ours.index <= 0 and true < ours.unknowns
    return outcome


def test_random_convolutions_are_never_below_the_measured_rank() -> None:
    outcome = compare(120, seed=3)
    assert outcome["below"] == 0
    assert outcome["exact"] >= 112  # 560 of 600
    assert outcome["count wrong"] == 0  # a positive count does prove a deficit
    assert outcome["count misses"] > 0  # and a negative one proves nothing


@pytest.mark.parametrize(
    "options", [{"general": True}, {"transposed": True}], ids=["groups dilation batch", "transposed"]
)
def test_other_convolutions(options: dict[str, bool]) -> None:
    outcome = compare(40, seed=4, **options)
    assert outcome["below"] == 0
    assert outcome["exact"] >= 36


@pytest.mark.slow
def test_six_hundred_random_convolutions() -> None:
    outcome = compare(600, seed=1)
    assert outcome["below"] == 0
    assert outcome["exact"] >= 560
    assert outcome["flag"] >= 590


@pytest.mark.parametrize(("n", "f", "rows"), [(5, 3, 4), (6, 6, 2), (4, 9, 7), (7, 2, 9), (3, 5, 3), (8, 4, 1)])
def test_linear_over_tokens(n: int, f: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(n * f)
    weight, delta = (torch.randn(s, generator=generator).double() for s in ((f, n), (f, rows)))
    identity = torch.eye(n * rows, dtype=torch.float64).view(-1, rows, n)
    system = torch.cat([(identity @ weight.T).flatten(1), (delta @ identity).flatten(1)], dim=1)
    assert linear_rank(n, f, rows).rank == int(torch.linalg.matrix_rank(system, rtol=1e-10))


def test_unreached_remainder_is_a_deficit() -> None:
    """Stride 3 over 8 pixels with one tap: 9 of 64 pixels are seen, whatever the width."""
    assert convolution_rank(layer(1, 50, 8, 1, 3)).deficit == 64 - 9


def test_degenerate_shapes() -> None:
    assert convolution_rank(layer(1, 1, 1, 1)).deficit == 0
    assert linear_rank(1, 1).deficit == 0
    assert convolution_rank(layer(4, 4, 3, 3, groups=4)).unknowns == 36


@pytest.mark.parametrize("f", range(2, 30, 3))
def test_one_more_filter_never_raises_the_deficit(f: int) -> None:
    fewer, more = (convolution_rank(layer(12, n, 17, 3, 2, 1)).deficit for n in (f, f + 1))
    assert more <= fewer


def test_propagation_is_absorbed_by_redundant_outputs() -> None:
    first = convolution_rank(layer(3, 12, 32, 4, 2, 2))  # 396 more outputs than unknowns
    assert first.propagated(280) == 0
    assert first.propagated(0) == first.deficit
    assert first.propagated(3468) > first.propagated(1500) > 0
