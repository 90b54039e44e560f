"""The last linear layer: its input and the gradient at the logits, from its weight gradient alone.

With μ = W x + b and δ = ∂ℓ/∂μ, one sample's weight gradient is G = δ xᵀ.

* **With a trained bias**: δ = ∂ℓ/∂b and x = Gᵀδ/‖δ‖², whatever the loss and wherever the layer stands.
* **One logit, no trained bias**: v = ⟨G, W⟩ = t·ℓ'(t + b) with t = W x is one scalar equation. For the logistic loss
  it has one root per label where v ≥ 0 and two where v_min < v < 0 (b = 0: v_min = -0.2785, double root at |t| =
  1.2785). All are found by bracketing; *both labels are tried*. In a bias-free positively homogeneous network the two
  roots of one label are twins: two inputs, one a multiple of the other, with the same gradient in every layer.
* **K ≥ 2 classes, no trained bias**: G has rank one and gives x/‖x‖ and δ‖x‖; the norm s solves the K equations
  softmax(s·W x/‖x‖ + b) - e_y = δ‖x‖/s. For K ≥ 3 they have one common root, generically; for K = 2 the twins return.

Fails, by an empty list, where no root exists: v < v_min or inconsistent equations mean that G is not this loss's
gradient (noise, clipping, several samples). Ill-conditioned near the double root.

Reference: Zhu & Blaschko, "R-GAP", ICLR 2021 (one logit). Deviations: all roots of both labels by bracketing instead
of one by descent with a known label; the multi-class equations are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakaudit.target.parts import ENTRIES

Vector = NDArray[np.float64]
CONSISTENT = 1e-2
"""Relative mismatch up to which the K scale equations count as satisfied; chosen, not measured."""
BELOW_MINIMUM = 1e-6
"""Relative undershoot of v_min that rounding explains: 8 times float32's precision."""
GRID = 4000
"""Points at which a sign change is looked for; chosen: 330 a decade."""


@dataclass(frozen=True, eq=False)
class Start:
    """A possible reading of a linear layer.

    Args:
        features: Its input x, float64 (n,).
        delta: Gradient at its output, float64 (F,).
        label: Class index that it implies, or ``None`` where the layer is not the last.
        residual: ‖G - δ xᵀ‖ / ‖G‖, or the mismatch of the scale equations where that is larger.
    """

    features: Tensor
    delta: Tensor
    label: int | None
    residual: float


def from_bias(gradient: Tensor, delta: Tensor) -> Start:
    """Read a layer with a trained bias.

    Args:
        gradient: G (F, n).
        delta: ∂ℓ/∂b (F,), not zero.
    """
    features = gradient.T @ delta / delta.square().sum()
    return Start(features, delta, None, _rank_one_residual(gradient, delta, features))


def logistic_roots(v: float, offset: float = 0.0) -> list[tuple[float, int]]:
    """All solutions (t, y) of t·(sigmoid(t + offset) - y) = v with y in {0, 1}; at most four.

    Args:
        v: ⟨G, W⟩ of a one-logit layer.
        offset: Known bias b.
    """
    return [(t, 0) for t in _roots(v, offset)] + [(-t, 1) for t in _roots(v, -offset)]


def _roots(v: float, offset: float) -> list[float]:
    """Solutions of f(t) = t·sigmoid(t + offset) = v; f falls to its only minimum t* < -1, then rises without bound."""

    def rise(t: float) -> float:
        return 1 + t * _sigmoid(-t - offset)  # f' / sigmoid(t + offset)

    turn = _bracketed(rise, _grow(-1.0, lambda t: rise(t) < 0), -1.0)

    def excess(t: float) -> float:
        return t * _sigmoid(t + offset) - v

    lowest = excess(turn)
    if lowest >= 0:
        return [turn] if lowest <= BELOW_MINIMUM * abs(v) else []
    roots = [_bracketed(excess, turn, _grow(1.0, lambda t: excess(t) >= 0))]
    if v < 0:
        roots.append(_bracketed(excess, _grow(turn, lambda t: excess(t) >= 0), turn))
    return roots


def _grow(start: float, enough: Callable[[float], bool]) -> float:
    """Double until the predicate holds."""
    while not enough(start):
        start *= 2
    return start


def _bracketed(function: Callable[[float], float], low: float, high: float) -> float:
    return float(scipy.optimize.brentq(function, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500))


def _sigmoid(t: float) -> float:
    return (
        float(0.5 * (1 + np.tanh(0.5 * t))) if t > 0 else float(np.exp(max(t, -745.0)) / (1 + np.exp(max(t, -745.0))))
    )


def from_logistic(gradient: Tensor, weight: Tensor, offset: float = 0.0, slope: float = 1.0) -> list[Start]:
    """Read a one-logit layer without trained bias under the logistic loss.

    Args:
        gradient: G (1, n).
        weight: W (1, n).
        offset: Known bias; 0 where ``slope`` is not 1.
        slope: Slope below zero of a LeakyReLU behind the layer, 1 without one. With m its output, ⟨G, W⟩ = m·ℓ'(m)
        still.

    Returns:
        One candidate per root; twins differ in scale, labels in sign.
    """
    starts = []
    for t, label in logistic_roots(float((gradient * weight).sum()), offset):
        loss_slope = _sigmoid(t + offset) if label == 0 else -_sigmoid(-t - offset)
        delta = loss_slope * (1.0 if t > 0 else slope)
        if delta != 0:
            value = torch.tensor([delta], dtype=gradient.dtype)
            starts.append(Start(gradient[0] / delta, value, label, 0.0))
    return starts


def from_softmax(gradient: Tensor, weight: Tensor, offset: Tensor | None = None) -> list[Start]:
    """Read a K-class layer without trained bias under cross-entropy.

    Args:
        gradient: G (K, n), rank one up to rounding.
        weight: W (K, n).
        offset: Known bias (K,), or ``None``.

    Returns:
        One candidate per consistent label and scale: one for K ≥ 3, generically; up to four for K = 2.
    """
    left, direction = _rank_one(gradient)
    residual = _rank_one_residual(gradient, left, direction)
    pull = (weight @ direction).numpy()
    base = np.zeros_like(pull) if offset is None else offset.numpy()
    found: list[tuple[float, float, int, float]] = []
    size = left.abs()
    for label in torch.nonzero(size >= 0.999 * size.max()).flatten().tolist():
        sign = -1.0 if float(left[label]) > 0 else 1.0
        for scale, mismatch in _scales(sign * pull, base, sign * left.numpy(), label):
            found.append((mismatch, scale, label, sign))
    best = min((item[0] for item in found), default=0.0)
    return [
        Start(sign * scale * direction, sign * left / scale, label, max(residual, mismatch))
        for mismatch, scale, label, sign in sorted(found)
        if mismatch <= max(100 * best, 1e-9)
    ]


def _rank_one(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """G ≈ left · directionᵀ with a unit direction; power iteration from the largest row, exact for rank one."""
    direction = gradient[gradient.square().sum(1).argmax()]
    for _ in range(4):
        direction = direction / direction.norm()
        direction = gradient.T @ (gradient @ direction)
    direction = direction / direction.norm()
    return gradient @ direction, direction


def _rank_one_residual(gradient: Tensor, left: Tensor, right: Tensor) -> float:
    rows = max(1, ENTRIES // max(1, right.numel()))
    pairs = zip(torch.split(gradient, rows), torch.split(left, rows), strict=True)
    rest = sum(float((part - torch.outer(factor, right)).square().sum()) for part, factor in pairs)
    return float(np.sqrt(rest) / gradient.norm())


def _scales(pull: Vector, base: Vector, target: Vector, label: int) -> list[tuple[float, float]]:
    """Scales s with s·(softmax(s·pull + base) - e_label) = target, and each one's relative mismatch."""
    norm = float(np.linalg.norm(target))
    grid = norm * np.logspace(-0.2, 12, GRID)  # ‖softmax - e‖ ≤ √2 bounds s from below
    size = np.linalg.norm(_scale_equations(grid, pull, base, target, label), axis=1)
    dips = np.flatnonzero((size[1:-1] < size[:-2]) & (size[1:-1] <= size[2:])) + 1
    solutions: list[tuple[float, float]] = []
    for start in grid[dips]:
        scale = _gauss_newton(float(start), pull, base, target, label)
        mismatch = float(np.linalg.norm(_scale_equations(np.array([scale]), pull, base, target, label))) / norm
        if mismatch <= CONSISTENT and not any(abs(scale / other - 1) < 1e-6 for other, _ in solutions):
            solutions.append((scale, mismatch))
    return solutions


def _scale_equations(scales: Vector, pull: Vector, base: Vector, target: Vector, label: int) -> Vector:
    """s·(softmax(s·pull + base) - e_label) - target for several s, (len(s), K), without cancellation at the label."""
    return scales[:, None] * _loss_gradient(scales, pull, base, label) - target


def _loss_gradient(scales: Vector, pull: Vector, base: Vector, label: int) -> Vector:
    logits = scales[:, None] * pull + base
    weights = np.exp(logits - logits.max(1, keepdims=True))
    gradient: Vector = weights / weights.sum(1, keepdims=True)
    gradient[:, label] = 0.0
    gradient[:, label] = -gradient.sum(1)
    return gradient


def _gauss_newton(scale: float, pull: Vector, base: Vector, target: Vector, label: int) -> float:
    """Refine a scale on all K equations at once; quadratic at a consistent root."""
    for _ in range(60):
        at = np.array([scale])
        gradient = _loss_gradient(at, pull, base, label)[0]
        probabilities = gradient.copy()
        probabilities[label] += 1
        slope = gradient + scale * probabilities * (pull - probabilities @ pull)
        step = float(slope @ (scale * gradient - target) / max(float(slope @ slope), 1e-300))
        following = scale - step if step < 0.5 * scale else 0.5 * scale
        following = min(following, 2 * scale)
        if abs(following - scale) <= 1e-15 * scale:
            return following
        scale = following
    return scale
