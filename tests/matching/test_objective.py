"""The objective against closed forms, finite differences and the torch definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from leakaudit.domains.images import Images, total_variation
from leakaudit.matching import objective
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.objective import CosineDistance, layer_weights, make_distance, strongest_entries
from leakaudit.matching.once import norm_of
from leakaudit.matching.schedule import step_decay
from leakaudit.matching.settings import Distance
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from tests.conftest import make_target, small_cnn

SPACE = Images((3, 12, 12), (0.5,) * 3, (0.25,) * 3)


def problem(tv_weight: float) -> tuple[GradientMatching, torch.Tensor]:
    target = make_target(small_cnn().double(), (3, 12, 12), 5)
    inputs = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 3])
    update = {k: v.detach() for k, v in target.gradient(inputs, labels).items()}
    observation = Observation(update, FedSGD(2), SPACE, labels=labels)
    return GradientMatching(target, observation, labels, MatchSettings(tv_weight=tv_weight)), inputs


def test_distance_equals_one_minus_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    a = [torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randn(7, generator=generator).double()]
    b = [torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randn(7, generator=generator).double()]
    flat = [torch.cat([t.flatten() for t in pair]) for pair in (a, b)]
    expected = 1 - nn.functional.cosine_similarity(flat[0], flat[1], dim=0)
    torch.testing.assert_close(CosineDistance(tuple(b))(a), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        CosineDistance(tuple(b))([3 * t for t in b]), torch.tensor(0.0).double(), atol=1e-30, rtol=0
    )


def test_distance_keeps_its_precision_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(1000, generator=generator)
    moved = g + 1e-5 * torch.randn(1000, generator=generator)
    exact = 1 - nn.functional.cosine_similarity(g.double(), moved.double(), dim=0)
    got = CosineDistance((g,))([moved])
    assert abs(float(got) / float(exact) - 1) < 1e-2  # 1 - cos in float32 is off by more than 100 % here


def test_objective_at_the_true_input_is_the_prior_alone() -> None:
    matching, inputs = problem(tv_weight=0.3)
    objective, match = matching.evaluate(inputs.requires_grad_(True))
    assert float(match.detach()) < 1e-25
    torch.testing.assert_close(objective, 0.3 * total_variation(inputs))


def test_candidates_of_a_search_share_what_is_as_large_as_the_model() -> None:
    matching, inputs = problem(tv_weight=0.0)
    other = matching.under(replace(matching.settings, tv_weight=1e-3))
    assert other.yardstick is matching.yardstick is other.distance is matching.distance
    squared = matching.under(replace(matching.settings, distance="euclidean", matched_share=0.5))
    assert squared.yardstick is matching.yardstick
    assert squared.distance is not matching.yardstick
    weighted = matching.under(replace(matching.settings, layer_weights="linear"))
    assert not torch.equal(weighted.evaluate(inputs + 1)[1], matching.evaluate(inputs + 1)[1])


def test_gradient_of_the_objective_against_finite_differences() -> None:
    matching, truth = problem(tv_weight=0.01)
    inputs = truth + 0.3 * torch.randn(truth.shape, dtype=truth.dtype, generator=torch.Generator().manual_seed(2))
    inputs.requires_grad_(True)
    (gradient,) = torch.autograd.grad(matching.evaluate(inputs)[0], [inputs])
    direction = torch.randn(inputs.shape, dtype=inputs.dtype, generator=torch.Generator().manual_seed(3))
    step = 1e-6
    up, down = (matching.evaluate((inputs + s * direction).detach().requires_grad_())[0] for s in (step, -step))
    numeric = (up - down) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-6, atol=1e-9)


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(5.0).expand(2, 3, 4, 5)
    torch.testing.assert_close(total_variation(ramp), torch.tensor(1.0))
    torch.testing.assert_close(total_variation(ramp.transpose(2, 3) * 2), torch.tensor(2.0))
    assert float(total_variation(torch.ones(1, 1, 1, 9))) == 0


def test_step_decay_cuts_where_the_authors_do() -> None:
    for total, cuts in ((4800, (1799, 2999, 4203)), (24000, (8998, 14999, 21015))):
        values = [step_decay(i, total) for i in range(total)]
        changes = [i for i in range(1, total) if values[i] != values[i - 1]]
        assert tuple(changes) == cuts
        assert abs(values[-1] - 1e-3) < 1e-12


def gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (7,), (2, 2))]


def test_other_distances_against_their_definitions() -> None:
    a, b = gradients(0), gradients(1)
    cosines = [1 - nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(make_distance(b, "layerwise")(a), torch.stack(cosines).mean(), rtol=1e-12, atol=0)
    flat = [torch.cat([t.flatten() for t in pair]) for pair in (a, b)]
    expected = (flat[0] - flat[1]).square().sum() / flat[1].square().sum()
    torch.testing.assert_close(make_distance(b, "euclidean")(a), expected, rtol=1e-12, atol=0)


def test_weights_enter_inner_product_and_norms() -> None:
    a, b = gradients(0), gradients(1)
    w = layer_weights(3, "linear")
    assert w == [1.5, 1.0, 0.5]
    inner = sum(f * (x * y).sum() for f, x, y in zip(w, a, b, strict=True))
    norms = [sum(f * x.square().sum() for f, x in zip(w, side, strict=True)) for side in (a, b)]
    expected = 1 - inner / (norms[0] * norms[1]).sqrt()
    torch.testing.assert_close(make_distance(b, "cosine", "linear")(a), expected, rtol=1e-12, atol=1e-12)
    ratios = [x / y for x, y in zip(layer_weights(3, "exponential")[1:], layer_weights(3, "exponential"), strict=False)]
    assert all(abs(r - 0.36787944) < 1e-6 for r in ratios)


def test_the_strongest_tensors_alone_count() -> None:
    b = [torch.ones(3).double(), 10 * torch.ones(2).double(), 5 * torch.ones(4).double()]
    distance = make_distance(b, "cosine", strongest=2)
    torch.testing.assert_close(distance([-b[0], b[1], b[2]]), torch.tensor(0.0).double(), rtol=0, atol=1e-15)
    assert float(distance([b[0], -b[1], b[2]])) > 0.1


def test_partial_matching_looks_at_the_largest_entries_only() -> None:
    observed = [torch.tensor([3.0, -0.1, 0.2, -4.0]), torch.tensor([[1.0, 5.0]])]
    assert strongest_entries(observed[0], 0.5).tolist() == [1, 0, 0, 1]
    assert strongest_entries(observed[1], 0.1).tolist() == [[0, 1]]
    guess = [torch.tensor([3.0, 9.0, 9.0, -4.0]), torch.tensor([[-7.0, 5.0]])]
    for kind in ("cosine", "euclidean", "layerwise"):
        assert float(make_distance(observed, kind, share=0.5)(guess)) < 1e-12  # type: ignore[arg-type]
        assert float(make_distance(observed, kind)(guess)) > 0.1  # type: ignore[arg-type]
    assert float(make_distance(observed, share=0.5)([-g for g in guess])) > 1


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
@pytest.mark.parametrize("distance_between", [1.0, 1e-4, 0.0])
def test_of_large_models_the_same_distance_keeps_the_gradients_alone(
    kind: Distance, distance_between: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    observed = [torch.randn(shape, generator=generator).double() for shape in ((50, 40), (7,))]
    guess = [2 * g + distance_between * torch.randn(g.shape, generator=generator) for g in observed]

    def taken(once: bool) -> tuple[Tensor, tuple[Tensor, ...], int]:
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        leaves = [g.clone().requires_grad_(True) for g in guess]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            distance = make_distance(observed, kind)
            value = (objective.distance_once if once else lambda d, g: d(g))(distance, leaves)
        return value.detach(), torch.autograd.grad(3 * value, leaves), sum(kept.values())

    plain, gradients, _ = taken(False)
    monkeypatch.setattr(objective, "LARGE", 0)
    value, lean, kept = taken(True)
    assert value == pytest.approx(float(plain), rel=1e-9, abs=1e-15)
    for one, other in zip(lean, gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-12)
    assert kept == sum(g.numel() for g in guess)
    again, plainly, _ = taken(False)  # nothing is kept beside the observed gradients there either
    assert again == pytest.approx(float(plain), rel=1e-12, abs=1e-15)
    assert all(torch.allclose(a, b) for a, b in zip(plainly, gradients, strict=True))


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
@pytest.mark.parametrize("apart", [1.0, 1e-4, 0.0])
def test_the_written_derivative_is_that_of_autograd(kind: Distance, apart: float) -> None:
    generator = torch.Generator().manual_seed(0)
    observed = [torch.randn(shape, generator=generator).double() for shape in ((5, 4, 3), (7,), ())]
    guess = [2 * g + apart * torch.randn(g.shape, generator=generator) for g in observed]
    distance = make_distance(observed, kind)

    def taken(function: Callable[[list[Tensor]], Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves = [g.clone().requires_grad_(True) for g in guess]
        value = function(leaves)
        return value.detach(), torch.autograd.grad(3 * value, leaves)

    plain, gradients = taken(distance)
    value, written = taken(lambda leaves: objective.distance_once(distance, leaves))
    torch.testing.assert_close(value, plain, rtol=1e-10, atol=1e-28)
    for one, other in zip(written, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_the_written_derivative_keeps_what_float32_can_tell_near_the_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    observed = torch.randn(5000, generator=generator)
    guess = observed + 1e-4 * torch.randn(5000, generator=generator)

    def taken(kind: torch.dtype) -> tuple[float, Tensor]:
        leaf = guess.to(kind).requires_grad_(True)
        value = objective.distance_once(CosineDistance((observed.to(kind),)), [leaf])
        return float(value.detach()), torch.autograd.grad(value, leaf)[0].double()

    exact, slope = taken(torch.float64)
    value, gradient = taken(torch.float32)
    assert value == pytest.approx(exact, rel=1e-4)
    assert float((gradient - slope).norm() / slope.norm()) < 1e-2


@pytest.mark.parametrize("size", [4, 4_000_000])
@pytest.mark.parametrize("length", [0.0, 1e-17, 1e-15])
def test_a_gradient_of_hardly_anything_has_the_distance_of_its_direction(
    size: int, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nothing that is a half; squares of float32 vanish on the way."""
    monkeypatch.setattr(objective, "LARGE", 10**9)
    generator = torch.Generator().manual_seed(0)
    observed, guess = (torch.randn(size, generator=generator) for _ in range(2))
    leaf = (guess * (length / float(guess.double().norm()))).requires_grad_(True)
    value = objective.distance_once(CosineDistance((observed,)), [leaf])
    apart = float(nn.functional.cosine_similarity(observed.double(), guess.double(), 0)) if length else 0.5
    assert float(value.detach()) == pytest.approx(1 - apart, rel=1e-4)
    assert bool(torch.isfinite(torch.autograd.grad(value, leaf)[0]).all())


@pytest.mark.parametrize("size", [0, 7, 2048, 1_000_003])
def test_norms_of_uneven_vectors_are_those_of_float64(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(size, generator=generator) * torch.logspace(-6, 0, size)
    expected = float(vector.double().square().sum().sqrt())
    assert norm_of(vector) == pytest.approx(expected, rel=1e-6)
