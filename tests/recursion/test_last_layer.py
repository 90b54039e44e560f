"""The last layer read from its weight gradient, against the quantities that made it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leakaudit.recursion.last_layer import from_bias, from_logistic, from_softmax, logistic_roots


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


@given(st.one_of(st.floats(-30, -1e-6), st.floats(1e-6, 30)), st.floats(-3, 3), st.sampled_from([0, 1]))
def test_the_true_root_is_always_among_them(t: float, offset: float, label: int) -> None:
    v = t * (sigmoid(t + offset) - label)
    roots = logistic_roots(v, offset)
    assert 1 <= len(roots) <= 4
    for root, y in roots:
        assert root * (sigmoid(root + offset) - y) == pytest.approx(v, rel=1e-5, abs=1e-12)
    turns_flat = any(abs(1 + s * (1 - sigmoid(s + o))) < 0.02 for s, o in ((t, offset), (-t, -offset)))
    if not turns_flat and abs(v) > 1e-9:
        assert any(y == label and root == pytest.approx(t, rel=1e-5) for root, y in roots)


@pytest.mark.parametrize(("v", "count"), [(0.5, 2), (-0.1, 4), (-0.27, 4), (-0.2785, 0), (-1.0, 0)])
def test_number_of_roots_of_the_logistic_loss(v: float, count: int) -> None:
    assert len(logistic_roots(v)) == count


def test_the_double_root() -> None:
    roots = [abs(t) for t, _ in logistic_roots(-0.2784645427610738)]
    assert roots == pytest.approx([1.2784645427610738] * len(roots), rel=1e-6)
    assert roots


@pytest.mark.parametrize("slope", [1.0, 0.2])
def test_one_logit_with_and_without_leaky_relu_behind(slope: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weight = torch.randn((1, 12), generator=generator, dtype=torch.float64)
        x = torch.randn(12, generator=generator, dtype=torch.float64)
        for label in (0, 1):
            w = weight.clone().requires_grad_()
            logit = torch.nn.functional.leaky_relu(w @ x, slope)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logit, torch.tensor([label], dtype=torch.float64)
            )
            (gradient,) = torch.autograd.grad(loss, w)
            found = from_logistic(gradient, weight, 0.0, slope)
            assert any(s.label == label and torch.allclose(s.features, x, rtol=1e-6) for s in found)


def softmax_case(classes: int, seed: int, offset: bool = False) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.4 * torch.randn((classes, 30), generator=generator, dtype=torch.float64)
    x = torch.randn(30, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64) * float(offset)
    label = seed % classes
    delta = (weight @ x + bias).softmax(0)
    delta[label] = -(delta.sum() - delta[label])
    return torch.outer(delta, x), weight, bias, x, delta, torch.tensor(label)


@pytest.mark.parametrize("offset", [False, True])
def test_multi_class_without_trained_bias_has_one_reading(offset: bool) -> None:
    for seed in range(40):
        gradient, weight, bias, x, delta, label = softmax_case(10, seed, offset)
        (start,) = from_softmax(gradient, weight, bias)
        assert torch.allclose(start.features, x, rtol=1e-8, atol=1e-9)
        assert torch.allclose(start.delta, delta, rtol=1e-8, atol=1e-9)
        assert start.label == int(label)


def test_two_classes_have_twins() -> None:
    counts = []
    for seed in range(20):
        gradient, weight, _, x, _, label = softmax_case(2, seed)
        found = from_softmax(gradient, weight)
        counts.append(len(found))
        assert any(s.label == int(label) and torch.allclose(s.features, x, rtol=1e-5) for s in found)
    assert max(counts) > 1


def test_a_gradient_of_another_loss_has_no_reading() -> None:
    gradient, weight, *_ = softmax_case(10, 3)
    twisted = gradient * torch.linspace(1, 3, 10, dtype=torch.float64)[:, None]
    assert from_softmax(twisted, weight) == []
    assert from_logistic(torch.full((1, 4), 1.0), torch.full((1, 4), -1.0)) == []


def test_a_biased_layer_is_read_whatever_the_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    delta, x = torch.randn(7, generator=generator), torch.randn(11, generator=generator)
    delta[2] = 0.0
    start = from_bias(torch.outer(delta, x).double(), delta.double())
    assert torch.allclose(start.features, x.double(), rtol=1e-5, atol=1e-6)
    assert start.residual < 1e-6
