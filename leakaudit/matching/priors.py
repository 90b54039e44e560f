"""What an attacker believes about samples before seeing the update: differentiable scalars of the guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leakaudit.target.batchnorm import Statistics, normalised
from leakaudit.target.target import Target

Variables = Mapping[str, Tensor]
"""What is optimised: ``inputs`` (B, C, H, W), and where wanted ``labels`` (B, K) logits, ``mask:step/layer`` (B, …),
and ``client:name`` what the protocol asks for."""
Prior = Callable[[Variables], Tensor]
"""A weighted term of the objective, a scalar."""


@dataclass(frozen=True)
class KeepRate:
    """Pull of the dropout masks towards their known rate (Scheliga et al. 2022, arXiv 2208.06163).

    ``weight · Σ_l |1 − mean(m_l) − p_l|``: one number per layer, so it asks for a rate, not for zeros and ones.

    Args:
        rates: Dropout probability by ``step/layer``.
        weight: λ_m.
    """

    rates: Mapping[str, float]
    weight: float

    def __call__(self, variables: Variables) -> Tensor:
        """The penalty; 0 where no mask is optimised."""
        total = variables["inputs"].new_zeros(())
        for name, rate in self.rates.items():
            mask = variables.get(f"mask:{name}")
            if mask is not None:
                total = total + (1 - mask.mean() - rate).abs()
        return self.weight * total


class BatchStatistics:
    """Distance of the guess's BatchNorm statistics from known ones (Yin et al. 2021, arXiv 2104.07586).

    ``weight · Σ_l c_l (‖μ_l(x) − μ*_l‖₂ + ‖σ²_l(x) − σ²*_l‖₂)`` with c = `first` for the first layer and 1 elsewhere.
    The norms, not their squares, as published. Costs one more forward pass.

    Args:
        target: Model with BatchNorm layers.
        statistics: Mean and biased variance of each layer's input, by layer name.
        weight: Of the whole term.
        first: Factor of the first layer.
    """

    def __init__(self, target: Target, statistics: Statistics, weight: float, first: float = 10.0) -> None:
        self.target, self.weight, self.first, self.statistics = target, weight, first, statistics

    def __call__(self, variables: Variables) -> Tensor:
        """The distance of the guess's statistics, weighted."""
        calls = normalised(self.target, variables["inputs"])
        total = variables["inputs"].new_zeros(())
        for position, (name, (mean, variance)) in enumerate(self.statistics.items()):
            own_mean, own_variance = calls[name].statistics
            distance = _length(own_mean - mean) + _length(own_variance - variance)
            total = total + (self.first if position == 0 else 1.0) * distance
        return self.weight * total


def _length(vector: Tensor) -> Tensor:
    """Euclidean norm with a finite derivative at zero."""
    return torch.sqrt(vector.square().sum() + 1e-12)
