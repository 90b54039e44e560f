"""Class counts from the last layer's moments: the estimators behind label inference for batches.

:func:`fit_prediction` moves the logits of probe images until the second moment of the update comes out,
:func:`ilrg_shares` is iLRG (Ma et al. 2023, arXiv 2302.09904), and :func:`round_counts` makes whole counts of shares.
"""

from __future__ import annotations

import scipy
import torch
from torch import Tensor

SHIFT_WEIGHT = 0.05
"""Weight of the prior on the logits' shift against the misfit of the moments, both relative; chosen, and what
`benchmarks/results/labels.md` was measured with (10 batches a cell)."""


def fit_prediction(probe: Tensor, bias: Tensor, moment: Tensor, signal: Tensor) -> Tensor:
    """Mean prediction (K,) of the batch, from probe logits moved so that the update's second moment comes out.

    Minimises ``‖M(c, s, t) − G Wᵀ‖²`` (relative) plus a Gaussian prior on shift c (in the covariance of the probe), log
    spread s and tilt t, where ``M = mean p zᵀ − Σ_k ν_k e_k E[z | k]ᵀ`` and ``ν = mean p − g`` are the class shares.

    Args:
        probe: Logits without bias of the probe images (N, K).
        bias: (K,).
        moment: ``G Wᵀ`` of the update (K, K).
        signal: g (K,).
    """
    classes = len(signal)
    centre = probe.mean(0)
    deviation = probe - centre
    values, vectors = torch.linalg.eigh(deviation.T @ deviation / len(probe))
    root = vectors * values.clamp_min(1e-12).sqrt()
    scale = moment.square().mean().clamp_min(1e-24)

    def predict(theta: Tensor) -> tuple[Tensor, Tensor]:
        logits = centre + root @ theta[:classes] + deviation * theta[classes].exp()
        predictions = (logits + bias).softmax(1)
        mean = predictions.mean(0)
        membership = (predictions + 1e-6) ** theta[classes + 1].sigmoid()
        own = (membership.T @ logits) / membership.sum(0)[:, None]
        return mean, predictions.T @ logits / len(logits) - (mean - signal)[:, None] * own

    def objective(point: object) -> tuple[float, object]:
        theta = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        mean, predicted = predict(theta)
        misfit = (predicted - moment).square().sum() / scale / classes
        prior = theta[:classes].square().sum() + 4 * theta[classes].square() + 0.1 * theta[classes + 1].square()
        below = (mean - signal).clamp_max(0).square().sum()
        value = misfit + SHIFT_WEIGHT * (prior + 10 * below)
        (gradient,) = torch.autograd.grad(value, [theta])
        return value.item(), gradient.numpy()

    start = torch.zeros(classes + 2, dtype=torch.float64).numpy()
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return predict(torch.tensor(found.x))[0]


def ilrg_shares(weight: Tensor, bias: Tensor, gradient: Tensor, signal: Tensor) -> Tensor:
    """Class shares (K,) by iLRG: class features ``G_k / g_k``, their predictions, and a pseudo-inverse.

    Args:
        weight: W (K, features).
        bias: b (K,).
        gradient: G (K, features).
        signal: g (K,).
    """
    classes = len(signal)
    safe = torch.where(signal.abs() < 1e-12, torch.full_like(signal, 1e-12), signal)
    predictions = (gradient / safe[:, None] @ weight.T + bias).softmax(1)  # (class, K)
    system = torch.cat([predictions.T - torch.eye(classes, dtype=signal.dtype), signal.new_ones((1, classes))])
    right = torch.cat([signal, signal.new_ones(1)])
    shares: Tensor = torch.linalg.pinv(system) @ right
    return shares


def round_counts(share: Tensor, size: int, least: Tensor | None = None) -> Tensor:
    """Whole counts (K,) that sum to `size`, nearest to ``share * size`` by largest remainder.

    Args:
        share: Estimated class shares (K,); negative ones count as zero.
        size: Samples.
        least: Lower bounds (K,) of the counts, where known; dropped if they do not fit into `size`.
    """
    quota = share.clamp_min(0)
    quota = quota / quota.sum() * size if bool(quota.any()) else torch.full_like(quota, size / len(quota))
    floor = torch.zeros_like(quota) if least is None else whole(least, size).to(quota)
    free = (quota - floor).clamp_min(0)
    left = size - float(floor.sum())
    free = free / free.sum() * left if bool(free.any()) else torch.full_like(free, left / len(free))
    counts = floor.long() + free.floor().long()
    remainder = free - free.floor()
    counts[remainder.argsort(descending=True, stable=True)[: size - int(counts.sum())]] += 1
    return counts


def whole(least: Tensor, size: int) -> Tensor:
    """Lower bounds (K,) of counts as whole numbers; zeros if they do not fit into `size`."""
    floor = (least - 1e-4).ceil().clamp_min(0)
    return (floor if float(floor.sum()) <= size else torch.zeros_like(floor)).long()
