"""Mean prediction of a batch from dummy features that reproduce the update of the last linear layer.

With features ``h_i``, predictions ``p_i = softmax(W h_i + b)`` and labels ``y_i``, the last layer's update is

.. math:: g = \\frac1B \\sum_i (p_i - y_i), \\qquad G = \\frac1B \\sum_i (p_i - y_i) h_i^T.

Claim: B dummy features with soft labels, fitted to both, have the mean prediction of the private batch, more or less,
though no single one need resemble a sample; the class counts follow as ``B (mean p − g)``. The features of probe images
give the start, the directions that are fitted and the prior. Several starts are averaged, since each finds another of
the many solutions; a second round starts from the class shares of the first.

For B below the number of classes there are more equations than unknowns in the space of the features. Above, the prior
decides what the second moments leave open, and the counts of a trained network are right only in part.

The fit of a single dummy batch to the gradient is DLG (Zhu et al. 2019, arXiv 1906.08935) in the space of the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

DIRECTIONS = 48
"""Principal directions of the probe's features in which the dummy features move; 200 count no better
(`benchmarks/results/labels.md`)."""
STARTS, ROUNDS, STEPS = 4, 2, 150
"""Starts, rounds, and L-BFGS iterations of each; 16 starts count at most 2.5 points better at four times the cost
(`benchmarks/results/labels.md`), the rest is chosen."""
PRIOR_WEIGHT = 0.01
"""Weight of the features' prior against the misfits of G and g, both relative; chosen, and what
`benchmarks/results/labels.md` was measured with."""
LABEL_START = 3.0
"""Logit of the drawn class at the start of a soft label, the others start near 0; chosen: a share of 0.7 among ten
classes."""


@dataclass(frozen=True, eq=False)
class FeatureFit:
    """The last layer in principal coordinates c of the probe's features, ``h = mean + V diag(scale) c``.

    Args:
        probe: c of the probe images (N, Q), mean 0, variance about 1.
        scale: (Q,).
        mean: ``Vᵀ mean`` (Q,).
        weight: ``W V diag(scale)`` (K, Q).
        offset: ``W mean + b`` (K,).
        gradient: ``G V`` (K, Q).
        signal: g (K,).
    """

    probe: Tensor
    scale: Tensor
    mean: Tensor
    weight: Tensor
    offset: Tensor
    gradient: Tensor
    signal: Tensor

    def mean_prediction(self, size: int, share: Tensor, generator: Generator) -> Tensor:
        """Mean prediction (K,) of `size` samples, starting from class shares (K,)."""
        for _ in range(ROUNDS):
            prediction = self._fit(size, share, generator)
            share = prediction - self.signal
        return prediction

    def _fit(self, size: int, share: Tensor, generator: Generator) -> Tensor:
        """One fit of all starts, averaged."""
        classes = len(share)
        chosen = torch.randint(len(self.probe), (STARTS, size), generator=generator)
        features = self.probe[chosen].clone().requires_grad_()
        drawn = torch.multinomial(share.clamp_min(0.2 / size), STARTS * size, replacement=True, generator=generator)
        jitter = torch.randn((STARTS, size, classes), generator=generator, dtype=share.dtype)
        start = LABEL_START * F.one_hot(drawn, classes).view(STARTS, size, classes) + 0.3 * jitter
        labels = start.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [features, labels], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-10
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self._misfit(features, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return self._mean(features.detach(), labels.detach())

    def _mean(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean prediction of what was fitted, over samples and starts."""
        return self._predictions(features).mean((0, 1))

    def _predictions(self, features: Tensor) -> Tensor:
        return (features @ self.weight.T + self.offset).softmax(-1)

    def _misfit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Relative misfits of G and g plus the prior, summed over the starts."""
        error = self._predictions(features) - labels.softmax(-1)  # (starts, B, K)
        gradient = error.transpose(1, 2) @ (features * self.scale + self.mean) / features.shape[1]
        return self._distance(gradient, error.mean(1), features)

    def _distance(self, gradient: Tensor, signal: Tensor, features: Tensor) -> Tensor:
        """Of what dummy samples give, (starts, K, Q) and (starts, K), from the observed, with the prior."""
        second = (gradient - self.gradient).square().sum() / self.gradient.square().sum().clamp_min(1e-24)
        first = (signal - self.signal).square().sum() / self.signal.square().sum().clamp_min(1e-24)
        return first + second + PRIOR_WEIGHT * len(features) * features.square().mean()


def feature_fit(pool: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, signal: Tensor) -> FeatureFit:
    """Prepare the fit.

    Args:
        pool: Features of the probe images (N, features).
        weight: W (K, features).
        bias: b (K,).
        gradient: G (K, features).
        signal: g (K,).
    """
    mean = pool.mean(0)
    deviation = pool - mean
    _, singular, right = torch.linalg.svd(deviation / len(pool) ** 0.5, full_matrices=False)
    directions = right[:DIRECTIONS].T
    scale = singular[:DIRECTIONS].clamp_min(1e-2 * singular[0]).clamp_min(1e-12)
    return FeatureFit(
        probe=deviation @ directions / scale,
        scale=scale,
        mean=directions.T @ mean,
        weight=weight @ directions * scale,
        offset=weight @ mean + bias,
        gradient=gradient @ directions,
        signal=signal,
    )
