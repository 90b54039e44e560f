"""Matrix-free products against autograd and against their own transposes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.recursion.solve import SolverSettings, null_space_probe, solve
from leakaudit.recursion.system import BilinearMap, Convolution, FullyConnected, LayerSystem, Pad


def settings(kernel: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    base = {"stride": ones, "padding": zeros, "dilation": ones, "groups": 1, "transposed": False}
    return {**base, "output_padding": zeros, "kernel": kernel, **changes}


def convolution(
    x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any], pads: tuple[Pad, ...] = ()
) -> Convolution:
    empty = torch.zeros((1, *x))
    for pad in pads:
        empty = pad(empty)
    o = options
    z = torch.ops.aten.convolution(
        empty, torch.zeros(w), None, o["stride"], o["padding"], o["dilation"],
        o["transposed"], o["output_padding"], o["groups"],
    )  # fmt: skip
    return Convolution(x, z.shape[1:], w, o, pads)


MAPS: dict[str, BilinearMap] = {
    "linear": FullyConnected((9,), (5,), (5, 9)),
    "tokens": FullyConnected((4, 6), (4, 3), (3, 6)),
    "plain": convolution((3, 7, 6), (5, 3, 3, 3), settings((3, 3), padding=(1, 1))),
    "stride": convolution((2, 9, 9), (4, 2, 3, 2), settings((3, 2), stride=(2, 3), padding=(1, 0))),
    "dilation": convolution((2, 9, 8), (4, 2, 3, 3), settings((3, 3), dilation=(2, 1), padding=(2, 2))),
    "groups": convolution((4, 6, 6), (6, 2, 3, 3), settings((3, 3), groups=2)),
    "depthwise": convolution((4, 6, 6), (8, 1, 3, 3), settings((3, 3), groups=4, padding=(1, 1))),
    "one dimension": convolution((3, 12), (4, 3, 5), settings((5,), stride=(2,), padding=(2,))),
    "three dimensions": convolution((2, 4, 5, 4), (3, 2, 2, 2, 2), settings((2, 2, 2))),
    "transposed": convolution((3, 4, 5), (3, 2, 3, 3), settings((3, 3), stride=(2, 2), transposed=True)),
    "transposed groups": convolution((4, 4, 4), (4, 3, 2, 2), settings((2, 2), groups=2, transposed=True)),
    "asymmetric pad": convolution(
        (2, 5, 5), (4, 2, 3, 3), settings((3, 3)), (Pad((1, 0, 2, 1), "constant", 0.0), Pad((-1, 0), "constant", 0.0))
    ),
    "reflection": convolution((2, 5, 5), (4, 2, 3, 3), settings((3, 3)), (Pad((1, 1, 1, 1), "reflection", 0.0),)),
}
maps = pytest.mark.parametrize("bilinear", list(MAPS.values()), ids=list(MAPS))


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@maps
def test_gradients_agree_with_autograd(bilinear: BilinearMap) -> None:
    x, w, q = random(bilinear.input_shape, 1), random(bilinear.weight_shape, 2), random(bilinear.output_shape, 3)
    x.requires_grad_()
    w.requires_grad_()
    if isinstance(bilinear, FullyConnected):
        z = F.linear(x, w)
    else:
        assert isinstance(bilinear, Convolution)
        z = bilinear.convolve(bilinear._padded(x), w)
    by_input, by_weight = torch.autograd.grad((q * z).sum(), (x, w))
    assert torch.allclose(bilinear.forward(x, w), z)
    assert torch.allclose(bilinear.input_gradient(q, w.detach()), by_input)
    assert torch.allclose(bilinear.weight_gradient(x.detach(), q), by_weight)


@maps
def test_adjoint_of_the_stacked_system(bilinear: BilinearMap) -> None:
    system = make_system(bilinear, random(bilinear.input_shape, 1))
    x = random(bilinear.input_shape, 4)
    product = system.apply(x, 0.7)
    q = random(tuple(product.shape), 5)
    assert float(product @ q) == pytest.approx(float((x * system.adjoint(q, 0.7)).sum()), rel=1e-12)


@maps
def test_k0_is_the_block_of_the_gradient_constraints(bilinear: BilinearMap) -> None:
    x, delta = random(bilinear.input_shape, 1), random(bilinear.output_shape, 2)
    block = bilinear.block(delta)
    if block is None:
        assert bilinear is MAPS["three dimensions"]
        return
    gradient = bilinear.split(bilinear.weight_gradient(x, delta))
    assert tuple(block.shape[1:]) == bilinear.block_size()
    # find the matrix (groups, S, channels) that `join` turns into x, then K0 times it must be G
    numbers = torch.arange(x.numel(), dtype=torch.float64).reshape(block.shape[0], block.shape[2], -1)
    columns = torch.empty_like(numbers).flatten()
    columns[:] = x.flatten()[torch.argsort(bilinear.join(numbers).flatten())]
    assert torch.allclose(block @ columns.reshape(numbers.shape), gradient)


def make_system(bilinear: BilinearMap, x: Tensor, trust: Tensor | None = None) -> LayerSystem:
    w, delta = random(bilinear.weight_shape, 2), 0.01 * random(bilinear.output_shape, 3)
    trust = torch.ones(bilinear.output_shape, dtype=torch.float64) if trust is None else trust
    return LayerSystem(bilinear, w, delta, bilinear.weight_gradient(x, delta), bilinear.forward(x, w), trust)


def test_every_method_gives_the_same_input() -> None:
    bilinear = convolution((3, 6, 6), (8, 3, 3, 3), settings((3, 3), padding=(1, 1)))
    x = random(bilinear.input_shape, 1)
    system = make_system(bilinear, x)
    found = {
        "K0": solve(system, True, SolverSettings()),
        "LSMR": solve(system, False, SolverSettings()),
        "dense": solve(system, False, SolverSettings(iterations=3)),
    }
    for method, solution in found.items():
        assert solution.method == method
        assert torch.allclose(solution.x, x, rtol=1e-7, atol=1e-8), method
        assert solution.residual < 1e-9


def test_a_deficient_layer_gives_the_minimum_norm_input() -> None:
    bilinear = convolution((8, 8, 8), (6, 8, 3, 3), settings((3, 3), stride=(2, 2), padding=(1, 1)))
    x = random(bilinear.input_shape, 1)
    system = make_system(bilinear, x)
    solution = solve(system, False, SolverSettings())
    error = x - solution.x
    assert solution.residual < 1e-9
    assert float(error.norm() / x.norm()) > 0.1
    assert float(system.apply(error, 1.0).norm()) < 1e-6
    assert abs(float((error * solution.x).sum())) < 1e-6 * float(x.square().sum())
    columns = [system.apply(unit.reshape(x.shape), system.balance()) for unit in torch.eye(x.numel()).double()]
    rank = int(torch.linalg.matrix_rank(torch.stack(columns)))
    assert null_space_probe(system, torch.ones_like(x), SolverSettings()) == pytest.approx(x.numel() - rank, rel=0.3)


def test_the_probe_says_full_where_it_is() -> None:
    bilinear = convolution((3, 6, 6), (8, 3, 3, 3), settings((3, 3), padding=(1, 1)))
    system = make_system(bilinear, random(bilinear.input_shape, 1))
    assert null_space_probe(system, torch.ones(bilinear.input_shape), SolverSettings()) == 0


def test_pixels_that_no_window_visits_are_left_at_zero() -> None:
    bilinear = convolution((2, 6, 6), (40, 2, 1, 1), settings((1, 1), stride=(2, 2)))
    solution = solve(make_system(bilinear, random(bilinear.input_shape, 1)), False, SolverSettings())
    assert bilinear.reach()[:, ::2, ::2].all()
    assert int(bilinear.reach().sum()) == 18
    assert not bool(solution.x[:, 1::2].any())


def test_outputs_without_trust_are_ignored() -> None:
    bilinear = convolution((3, 6, 6), (8, 3, 3, 3), settings((3, 3), padding=(1, 1)))
    x = random(bilinear.input_shape, 1)
    trust = (random(bilinear.output_shape, 7) > 0).double()
    system = make_system(bilinear, x, trust)
    assert system.outputs is not None
    system.outputs[trust == 0] = 1e6
    assert torch.allclose(solve(system, False, SolverSettings()).x, x, rtol=1e-6, atol=1e-7)


def test_polling_stops_the_solver() -> None:
    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        solve(make_system(MAPS["plain"], random((3, 7, 6), 1)), False, SolverSettings(), stop)
