"""Inverses of activations: z and σ'(z) from y = σ(z).

Claim. Where σ is strictly monotone, z = σ⁻¹(y) and σ'(z) is a function of y. Where σ is constant (ReLU below zero,
clamps outside their range), σ' = 0 is known although z is not; such units keep their gradient constraints and lose
the weight constraint. Zero counts as negative, as in PyTorch's backward formulas, so exact zeros take the slope below
zero.

Fails where σ is not monotone (GELU, SiLU, hard-swish, …): neither z nor σ'(z) is a function of y. Saturated units of
smooth activations (σ' below ~1e-12) have no usable inverse and are reported as not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SATURATED = 1e-12
"""Slope below which an activation has no usable inverse; chosen, 4,500 times float64's precision."""
LARGEST_ERROR = 1e-3
"""Share of the mean size up to which values out of range are taken for error; chosen, not measured."""
SELU_ALPHA = 1.6732632423543772
"""α of SELU, as PyTorch has it (Klambauer et al. 2017, arXiv 1706.02515)."""
SELU_SCALE = 1.0507009873554805
"""λ of SELU, as PyTorch has it (Klambauer et al. 2017, arXiv 1706.02515)."""


@dataclass(frozen=True, eq=False)
class Preimage:
    """What y = σ(z) says about z.

    Args:
        z: Input of the activation, shaped as y; any finite number where it is not known.
        slope: σ'(z), known everywhere.
        known: Where z is determined by y.
    """

    z: Tensor
    slope: Tensor
    known: Tensor


Settings = Mapping[str, Any]
_Smooth = Callable[[Tensor, Settings], tuple[Tensor, Tensor]]


def _tanh(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    return torch.atanh(y), (1 - y) * (1 + y)


def _sigmoid(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    return torch.logit(y), y * (1 - y)


def _softplus(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    scaled = float(settings.get("beta", 1.0)) * y
    linear = scaled > float(settings.get("threshold", 20.0))
    inside = -torch.expm1(-scaled)
    z = y + torch.log(inside) / float(settings.get("beta", 1.0))
    return torch.where(linear, y, z), torch.where(linear, 1.0, inside)


def _log_sigmoid(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    below_one = -torch.expm1(y)
    return y - torch.log(below_one), below_one


def _elu(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    alpha, scale = float(settings.get("alpha", 1.0)), float(settings.get("scale", 1.0))
    negative = torch.log1p(y.clamp(max=0) / (alpha * scale))
    return torch.where(y > 0, y / scale, negative), torch.where(y > 0, scale, y + alpha * scale)


def _selu(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    return _elu(y, {"alpha": SELU_ALPHA, "scale": SELU_SCALE, **settings})


def _softsign(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    return y / (1 - y.abs()), (1 - y.abs()).square()


_SMOOTH: dict[str, _Smooth] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "elu": _elu,
    "selu": _selu,
    "softsign": _softsign,
}
_CLIPPED: dict[str, tuple[float, float]] = {
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
    "hardtanh": (-1.0, 1.0),
    "clamp": (-float("inf"), float("inf")),
    "clamp_min": (-float("inf"), float("inf")),
    "clamp_max": (-float("inf"), float("inf")),
    "hardsigmoid": (0.0, 1.0),
}
"""Outputs between which each of these activations can be inverted, by definition of the activation."""
RECOVERABLE = frozenset({"identity", "leaky_relu", "prelu", *_SMOOTH, *_CLIPPED})
"""Activations whose derivative is a function of their output."""
HOMOGENEOUS = frozenset({"identity", "leaky_relu", "prelu", "relu"})
"""Activations with σ(cz) = cσ(z) for every c > 0."""


def preimage(function: str, settings: Settings, y: Tensor, tolerance: float = 0.0) -> Preimage:
    """Invert an activation.

    Args:
        function: A name in :data:`RECOVERABLE`.
        settings: ``slope`` (number, or tensor that broadcasts against y), ``alpha``, ``beta``, ``low``, ``high``, ….
        y: Output of the activation, float64.
        tolerance: Absolute error of y: what is nearer to a kink counts as lying on it.

    Raises:
        KeyError: The activation is not in :data:`RECOVERABLE`.
    """
    if function in ("identity", "leaky_relu", "prelu"):
        slope = torch.as_tensor(settings.get("slope", 0.01) if function != "identity" else 1.0, dtype=y.dtype)
        positive = y > tolerance
        slopes = torch.where(positive, torch.ones_like(y), slope.expand_as(y))
        return Preimage(torch.where(positive, y, y / slope), slopes, torch.ones_like(y, dtype=torch.bool))
    if function in _CLIPPED:
        return _clipped(function, settings, y, tolerance)
    z, slope = _SMOOTH[function](y, settings)
    known = torch.isfinite(z) & torch.isfinite(slope) & (slope > SATURATED)
    zero = torch.zeros((), dtype=y.dtype)
    return Preimage(torch.where(known, z, zero), torch.where(known, slope, zero), known)


def _clipped(function: str, settings: Settings, y: Tensor, tolerance: float) -> Preimage:
    """σ(z) = min(max(z, low), high): z is known strictly inside; hard-sigmoid is the same after (z + 3)/6.

    How far y leaves the range measures its error, which decides what counts as lying on a bound.
    """
    low, high = _CLIPPED[function]
    low = low if settings.get("low") is None else float(settings["low"])
    high = high if settings.get("high") is None else float(settings["high"])
    beyond = torch.maximum(low - y, y - high).clamp(min=0)  # only error takes y out of the range
    tolerance = max(tolerance, min(2 * float(beyond.max()), LARGEST_ERROR * float(y.abs().mean())))
    known = (y > low + tolerance) & (y < high - tolerance)
    if function == "hardsigmoid":
        return Preimage(6 * y - 3, known.to(y.dtype) / 6, known)
    return Preimage(y, known.to(y.dtype), known)
