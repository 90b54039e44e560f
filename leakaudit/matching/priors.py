"""What an attacker believes about images before seeing the update: differentiable scalars of the guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakaudit.target.target import Target

Variables = Mapping[str, Tensor]
"""What is optimised: ``inputs`` (B, C, H, W), and where wanted ``labels`` (B, K) logits, ``mask:<layer>`` (B, …)."""
Prior = Callable[[Variables], Tensor]
"""A weighted term of the objective, a scalar."""


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation of (B, C, H, W): mean |horizontal| + mean |vertical| difference.

    The two means are taken separately, in the normalised space of the model (Geiping et al. 2020). A direction with
    a single pixel contributes 0.
    """
    total = images.new_zeros(())
    for axis in (-1, -2):
        if images.shape[axis] > 1:
            total = total + images.diff(dim=axis).abs().mean()
    return total


@dataclass(frozen=True)
class KeepRate:
    """Pull of the dropout masks towards their known rate (Scheliga et al. 2022, arXiv 2208.06163).

    ``weight · Σ_l |1 − mean(m_l) − p_l|``: one number per layer, so it asks for a rate, not for zeros and ones.

    Args:
        rates: Dropout probability by layer.
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
    """Distance of the guess's BatchNorm statistics from the client's (Yin et al. 2021, arXiv 2104.07586).

    ``weight · Σ_l c_l (‖μ_l(x) − μ*_l‖₂ + ‖σ²_l(x) − σ²*_l‖₂)`` with c = `first` for the first layer and 1 elsewhere.
    The norms, not their squares, as published. Costs one more forward pass.

    Args:
        target: Model with BatchNorm layers.
        statistics: Mean and biased variance of each layer's input, by module name.
        weight: Of the whole term.
        first: Factor of the first layer.
    """

    def __init__(
        self, target: Target, statistics: Mapping[str, tuple[Tensor, Tensor]], weight: float, first: float = 10.0
    ) -> None:
        self.target, self.weight = target, weight
        modules = dict(target.module.named_modules())
        self.layers = [(modules[n], m, v, first if i == 0 else 1.0) for i, (n, (m, v)) in enumerate(statistics.items())]

    def __call__(self, variables: Variables) -> Tensor:
        """The distance of the guess's statistics, weighted."""
        found: dict[nn.Module, Tensor] = {}
        hooks = [layer.register_forward_pre_hook(lambda m, a: found.update({m: a[0]})) for layer, *_ in self.layers]
        try:
            self.target.logits(variables["inputs"])
        finally:
            for hook in hooks:
                hook.remove()
        total = variables["inputs"].new_zeros(())
        for layer, mean, variance, factor in self.layers:
            own_mean, own_variance = statistics_of(found[layer])
            total = total + factor * (_length(own_mean - mean) + _length(own_variance - variance))
        return self.weight * total


def statistics_of(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel (axis 1) of a BatchNorm input."""
    axes = [axis for axis in range(activation.dim()) if axis != 1]
    return activation.mean(axes), activation.var(axes, correction=0)


def batchnorm_layers(module: nn.Module) -> list[str]:
    """Names of the BatchNorm layers."""
    return [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]


def _length(vector: Tensor) -> Tensor:
    """Euclidean norm with a finite derivative at zero."""
    return torch.sqrt(vector.square().sum() + 1e-12)
