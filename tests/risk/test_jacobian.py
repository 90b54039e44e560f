"""Measured ranks: the table of segments, and the whole map against independent values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leakaudit.risk.jacobian import Subgraph, gradient_spectrum, lanczos_quadrature, segment_rank
from leakaudit.risk.rank import rank_analysis
from leakaudit.target import load
from leakaudit.target.target import Target
from leakaudit.target.trace import trace
from tests.risk.nets import Residual, conv, leaky, target

SHAPE = (8, 12, 12)
SEGMENTS = {  # gradient alone, outputs alone, both, RA_seg
    "strided": (lambda: nn.Sequential(conv(8, 8, 3, 2, 1), leaky()), (576, 288, 800, 352)),
    "residual": (lambda: Residual(8, 8), (1144, 1152, 1152, 0)),
    "bottleneck": (lambda: Residual(8, 2), (286, 1152, 1152, 0)),
    "depthwise": (lambda: nn.Sequential(conv(8, 8, 3, 1, 1, groups=8), leaky()), (72, 1152, 1152, 0)),
    "depthwise strided": (lambda: nn.Sequential(conv(8, 8, 3, 2, 1, groups=8), leaky()), (72, 288, 352, 800)),
    "grouped": (lambda: nn.Sequential(conv(8, 16, 3, 2, 1, groups=4), leaky()), (288, 576, 800, 352)),
    "max-pool": (lambda: nn.MaxPool2d(2), (0, 288, 288, 864)),
    "average-pool": (lambda: nn.AvgPool2d(2), (0, 288, 288, 864)),
    "batchnorm": (lambda: nn.BatchNorm2d(8), (8, 1152, 1152, 0)),
    "global pool": (lambda: nn.AdaptiveAvgPool2d(1), (0, 8, 8, 1144)),
}


def whole(model: Target) -> Subgraph:
    recorded = trace(model)
    return Subgraph(recorded, recorded.input, recorded.output, frozenset(model.parameters))


@pytest.mark.parametrize("name", SEGMENTS)
def test_segment_table(name: str) -> None:
    build, expected = SEGMENTS[name]
    torch.manual_seed(0)
    found = segment_rank(whole(target(build(), SHAPE)), torch.Generator().manual_seed(0))
    assert found is not None
    assert (found.gradient, found.output, found.joint, found.unknowns - found.joint) == expected


def test_batch_statistics_hide_each_channels_mean() -> None:
    torch.manual_seed(0)
    model = target(nn.BatchNorm2d(8), SHAPE, train=True)
    before = {name: value.clone() for name, value in model.module.named_buffers()}
    found = segment_rank(whole(model), torch.Generator().manual_seed(0))
    assert found is not None
    assert (found.gradient, found.output, found.joint) == (8, 1144, 1144)
    assert found.condition > 1e4  # the scale survives only through epsilon
    assert all(torch.equal(value, before[name]) for name, value in model.module.named_buffers())


@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
def test_pooled_lenet_segment(pool: type[nn.Module]) -> None:
    torch.manual_seed(0)
    act = nn.Tanh() if pool is nn.AvgPool2d else nn.ReLU()
    model = target(nn.Sequential(conv(6, 16, 5), act, pool(2)), (6, 14, 14))
    found = segment_rank(whole(model), torch.Generator().manual_seed(0))
    assert found is not None
    assert (found.gradient, found.joint) == (1176, 1176)


def chain(*widths: int, stride: int = 2, act: type[nn.Module] | None = None) -> Target:
    torch.manual_seed(1)
    body: list[nn.Module] = []
    size, channels = 8, 3
    for width in widths:
        body += [conv(channels, width, 3, stride, 1), act() if act else leaky()]
        channels, size = width, (size - 1) // stride + 1
    return target(nn.Sequential(*body, nn.Flatten(), nn.Linear(channels * size * size, 4)), (3, 8, 8), 4)


@pytest.mark.parametrize("widths", [(4,), (2,), (12, 4), (6, 2), (1, 3), (16, 16)])
def test_global_rank_against_the_propagated_deficit(widths: tuple[int, ...]) -> None:
    """The propagated count is close to the measured deficit and never below it."""
    report = rank_analysis(chain(*widths), jacobian=True)
    assert report.spectrum is not None
    assert report.propagated_deficit is not None
    assert report.spectrum.measured
    assert report.spectrum.deficit <= report.propagated_deficit <= report.spectrum.deficit + 0.05 * report.unknowns


def test_global_rank_against_autograd() -> None:
    model = chain(3)
    spectrum = gradient_spectrum(
        whole(model), lambda z: torch.logsumexp(z, 1).sum() - z[:, 1].sum(), torch.Generator().manual_seed(5)
    )
    model.module.double()
    x = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def gradient(point: torch.Tensor) -> torch.Tensor:
        grads = model.gradient(point, torch.tensor([1]), create_graph=True)
        return torch.cat([g.flatten() for g in grads.values()])

    jacobian = torch.autograd.functional.jacobian(gradient, x, vectorize=True).reshape(-1, 192)
    values = torch.linalg.svdvals(jacobian)
    assert spectrum.rank == int((values > 1e-7 * values[0]).sum())
    assert spectrum.largest == pytest.approx(float(values[0]), rel=1e-8)


def test_quadrature_finds_the_share_of_zero_eigenvalues() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn((300, 300), generator=generator, dtype=torch.float64))[0]
    values = torch.cat([torch.zeros(120), torch.linspace(0.5, 2.0, 180)]).double()
    matrix = basis @ torch.diag(values) @ basis.T
    shares = []
    for _ in range(8):
        start = torch.randn(300, generator=generator, dtype=torch.float64)
        nodes, weights = lanczos_quadrature(lambda v: matrix @ v, start, steps=40)
        assert float(weights.sum()) == pytest.approx(1.0)
        shares.append(float(weights[nodes > 1e-8].sum()))
    assert sum(shares) / len(shares) == pytest.approx(0.6, abs=0.05)


def test_estimate_where_there_is_no_time_for_all_columns() -> None:
    model = chain(2)
    exact = rank_analysis(model, jacobian=True).spectrum
    estimate = gradient_spectrum(
        whole(model),
        lambda z: torch.logsumexp(z, 1).sum() - z[:, 0].sum(),
        torch.Generator().manual_seed(0),
        largest=10,
    )
    assert exact is not None
    assert exact.measured
    assert not estimate.measured
    assert estimate.condition is None
    assert abs(estimate.rank - exact.rank) <= 0.15 * exact.unknowns


class Beside(nn.Module):
    """Later layers ask for the image's shape (``new_ones``) or read the image itself."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.first, self.last = nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = nn.functional.gelu(self.first(x)).chunk(2, 1)
        beside = x * 2 if self.reads else x.new_ones(x.shape[0], 12)
        result: Tensor = self.last(torch.cat([right, left], 1) + torch.arange(12) + beside)
        return result


@pytest.mark.parametrize("reads", [False, True])
def test_the_image_beside_a_segment(reads: bool) -> None:
    report = rank_analysis(load(Beside(reads), image_shape=(1, 3, 4)), jacobian=True)
    assert report.spectrum is not None
    assert report.spectrum.rank == 12
