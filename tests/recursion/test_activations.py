"""Inverses and slopes against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leakaudit.recursion.activations import RECOVERABLE, preimage

SMOOTH: list[tuple[str, dict[str, Any], nn.Module]] = [
    ("identity", {}, nn.Identity()),
    ("leaky_relu", {"slope": 0.2}, nn.LeakyReLU(0.2)),
    ("tanh", {}, nn.Tanh()),
    ("sigmoid", {}, nn.Sigmoid()),
    ("softplus", {"beta": 2.0, "threshold": 20.0}, nn.Softplus(2.0)),
    ("log_sigmoid", {}, nn.LogSigmoid()),
    ("elu", {"alpha": 0.7}, nn.ELU(0.7)),
    ("selu", {}, nn.SELU()),
    ("softsign", {}, nn.Softsign()),
]
CLIPPED: list[tuple[str, dict[str, Any], nn.Module]] = [
    ("relu", {}, nn.ReLU()),
    ("relu6", {}, nn.ReLU6()),
    ("hardtanh", {"low": -0.5, "high": 1.5}, nn.Hardtanh(-0.5, 1.5)),
    ("clamp", {"low": -0.5, "high": None}, nn.Hardtanh(-0.5, 1e9)),
    ("hardsigmoid", {}, nn.Hardsigmoid()),
]


def value_and_slope(module: nn.Module, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = z.clone().requires_grad_()
    y = module(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    return y.detach(), slope


@pytest.mark.parametrize(("function", "settings", "module"), SMOOTH, ids=[row[0] for row in SMOOTH])
def test_monotone_activations_are_inverted(function: str, settings: dict[str, Any], module: nn.Module) -> None:
    z = torch.linspace(-4, 15, 400, dtype=torch.float64)
    y, slope = value_and_slope(module, z)
    inverse = preimage(function, settings, y)
    usable = slope > 1e-6
    assert bool(inverse.known[usable].all())
    assert torch.allclose(inverse.z[usable], z[usable], rtol=1e-8, atol=1e-8)
    assert torch.allclose(inverse.slope[usable], slope[usable], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("function", "settings", "module"), CLIPPED, ids=[row[0] for row in CLIPPED])
def test_constant_pieces_keep_their_slope_and_lose_their_input(
    function: str, settings: dict[str, Any], module: nn.Module
) -> None:
    z = torch.linspace(-5, 8, 401, dtype=torch.float64)
    y, slope = value_and_slope(module, z)
    inverse = preimage(function, settings, y)
    assert torch.allclose(inverse.slope, slope)
    assert bool((inverse.known == (slope > 0)).all())
    assert torch.allclose(inverse.z[inverse.known], z[inverse.known])


def test_zero_takes_the_slope_that_pytorch_gives_it() -> None:
    zeros = torch.tensor([0.0, -0.0], dtype=torch.float64)
    for function, settings, module in (("leaky_relu", {"slope": 0.2}, nn.LeakyReLU(0.2)), ("relu", {}, nn.ReLU())):
        assert torch.equal(preimage(function, settings, zeros).slope, value_and_slope(module, zeros)[1])


def test_an_error_smaller_than_the_tolerance_does_not_change_the_slope() -> None:
    y = torch.tensor([1e-9, -1e-9, 1.0], dtype=torch.float64)
    assert preimage("leaky_relu", {"slope": 0.2}, y, tolerance=1e-8).slope.tolist() == [0.2, 0.2, 1.0]


def test_negative_outputs_of_relu_measure_its_error() -> None:
    y = torch.tensor([-1e-6, 1.5e-6, 1.0, 2.0], dtype=torch.float64)
    assert preimage("relu", {}, y).known.tolist() == [False, False, True, True]


def test_saturated_units_are_not_known() -> None:
    inverse = preimage("tanh", {}, torch.tensor([1.0, -1.0, 0.5, 1.0 + 1e-9], dtype=torch.float64))
    assert inverse.known.tolist() == [False, False, True, False]
    assert bool(torch.isfinite(inverse.z).all())
    assert inverse.slope[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("function", ["gelu", "silu", "hardswish", "mish"])
def test_activations_that_are_not_monotone_are_not_offered(function: str) -> None:
    assert function not in RECOVERABLE
