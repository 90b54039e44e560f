"""Privacy accounting and error bounds against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.accounting import epsilon, reconstruction_bound
from leakaudit.defences.gaussian import GaussianMechanism
from leakaudit.domains.images import Images
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.risk.fisher import fisher_bound, trace_bound
from tests.conftest import make_target


@pytest.mark.parametrize(("multiplier", "steps"), [(0.7, 1), (2.0, 1), (5.0, 20)])
def test_epsilon_without_subsampling_is_the_analytic_gaussian_one(multiplier: float, steps: int) -> None:
    mu, delta = math.sqrt(steps) / multiplier, 1e-5

    def excess(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)) - delta

    assert epsilon(multiplier, 1.0, steps, delta) == pytest.approx(brentq(excess, 0, 100), rel=0.01)


def test_reconstruction_bound() -> None:
    assert reconstruction_bound(1.0, 0.01, rate=1 - 1e-9) == pytest.approx(reconstruction_bound(1.0, 0.01), rel=0.01)
    assert reconstruction_bound(1e6, 0.01) == pytest.approx(0.01, rel=1e-3)
    assert reconstruction_bound(1.0, 0.01, steps=9) > reconstruction_bound(1.0, 0.01)
    assert reconstruction_bound(1.0, 0.01, rate=0.01) < reconstruction_bound(1.0, 0.01)
    with pytest.raises(ValueError, match="between 0 and 1"):
        reconstruction_bound(1.0, 0.0)


def test_hardly_any_noise_is_no_guarantee_and_no_work() -> None:
    assert epsilon(1e-3, 1.0, 1, 1e-5) == epsilon(1e-3, 0.01, 100, 1e-5) == math.inf
    assert reconstruction_bound(1e-3, 0.1, rate=0.01, steps=100) == pytest.approx(1 - 0.99**100 * 0.9)


def test_the_best_possible_attacker_meets_the_bound_and_never_beats_it() -> None:
    """Telling which of N orthogonal gradients of norm C was shared: the maximum-likelihood guess."""
    candidates, trials = 10, 4000
    generator = cpu_generator(0)
    for multiplier in (0.5, 1.0, 2.0):
        shown = torch.randn(trials, candidates, generator=generator) * multiplier
        shown[:, 0] += 1.0
        success = float((shown.argmax(1) == 0).float().mean())
        bound = reconstruction_bound(multiplier, 1 / candidates)
        assert 1 / candidates < success < bound + 3 * math.sqrt(bound * (1 - bound) / trials)


def test_no_guarantee_without_both_halves() -> None:
    assert GaussianMechanism(clip=1.0).guarantee(1, 0.01) is None
    assert GaussianMechanism(noise=1.0).guarantee(1, 0.01) is None
    found = GaussianMechanism(clip=2.0, noise=0.5).guarantee(8, 0.01)
    assert found is not None
    assert found.multiplier == pytest.approx(2.0)
    by_client = GaussianMechanism(clip=2.0, noise=0.5, per="update").guarantee(8, 0.01)
    assert by_client is not None
    assert by_client.multiplier == pytest.approx(0.25)


def test_fisher_bound_of_a_linear_model_is_its_closed_form() -> None:
    """Softmax regression: G = (p − y) xᵀ, so ∂G/∂x = (p − y) ⊗ I + (S W) ⊗ x with S = diag p − p pᵀ."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4, bias=False)).double()
    target = make_target(net, (3, 4, 4), 4)
    space = Images((3, 4, 4), (0.0,) * 3, (1.0,) * 3)
    batch = Batch(torch.rand(1, 3, 4, 4, dtype=torch.float64), torch.tensor([2]), (0,))
    observation = observe(target, batch, FedSGD(1), space)
    weight, x = net[1].weight.detach(), batch.images.flatten()  # type: ignore[index]
    p = torch.softmax(weight @ x, 0)
    error = p - torch.eye(4, dtype=torch.float64)[2]
    slope = (torch.diag(p) - torch.outer(p, p)) @ weight
    jacobian = torch.einsum("k,ij->kij", error, torch.eye(48, dtype=torch.float64)) + torch.einsum(
        "kj,i->kij", slope, x
    )
    expected = 48 * 0.1**2 / float(jacobian.square().sum())
    found = fisher_bound(target, observation, Play(batch.images, batch.labels), 0.1, cpu_generator(0))
    assert found.mse == pytest.approx(expected, rel=1e-6)
    assert found.standard_error == 0


def test_fisher_bound_by_random_probes_agrees_with_columns() -> None:
    matrix = torch.randn(400, 300, generator=cpu_generator(1), dtype=torch.float64)
    found = trace_bound(lambda v: matrix @ v.flatten(), torch.zeros(300, dtype=torch.float64), 0.5, cpu_generator(2))
    expected = 300 * 0.25 / float(matrix.square().sum())
    assert found.mse == pytest.approx(expected, rel=5 * found.standard_error)
    assert 0 < found.standard_error < 0.1
    with pytest.raises(ValueError, match="more than 0"):
        replace(found, sigma=0.0) and trace_bound(lambda v: v, torch.zeros(3), 0.0, cpu_generator(0))
