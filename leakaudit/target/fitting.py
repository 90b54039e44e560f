r"""Outputs that are probabilities, and values that they are the softmax or the sigmoid of: told by numbers alone.

Claim: outputs between 0 and 1 (or a common factor) that sum to the same number on random inputs are probabilities.
Values are their logits if an affine function of the values' softmax, or of their sigmoid, gives them to a
five-hundredth of their spread. The affine function stands for clipping, a mixture with the uniform distribution and
per cent.
"""

from __future__ import annotations

import torch
from torch import Tensor

SUM_TOLERANCE = 1e-4
"""Relative deviation of a sum of probabilities in single precision, clipped ones included."""
_FIT_TOLERANCE = 2e-3
"""Residual of a fit, as a share of the spread of the outputs."""
SPREAD = 1e-6
"""Least spread of outputs in which anything can be recognised in single precision."""


def is_sigmoid(outputs: Tensor, values: Tensor | None) -> bool:
    """Whether outputs (B, K) are the sigmoid of these values, entry by entry."""
    if values is None or values.shape != outputs.shape:
        return False
    return float((torch.sigmoid(values) - outputs).abs().max()) <= SUM_TOLERANCE


def probabilities(outputs: Tensor) -> bool:
    """Whether outputs (B, K) are class probabilities up to a factor, or one probability each."""
    if not bool(torch.isfinite(outputs).all()) or float(outputs.min()) < -SUM_TOLERANCE or spread(outputs) < SPREAD:
        return False
    if outputs.shape[1] == 1:
        return float(outputs.max()) <= 1
    sums = outputs.sum(1)
    return float(sums.max() - sums.min()) <= SUM_TOLERANCE * float(sums.mean().abs())


def spread(outputs: Tensor) -> float:
    """Largest distance of an output (B, K) from its mean over the batch."""
    return float((outputs - outputs.mean(0)).abs().max())


def fitted(outputs: Tensor, values: Tensor | None, place: int) -> tuple[float, int, int] | None:
    """Residual, place and sign where an affine function of the values' softmax or sigmoid gives the outputs."""
    if values is None or not bool(torch.isfinite(values).all()):
        return None
    if values.shape[1] > 1:
        tries = [(torch.softmax(values, 1), 1)]
    else:
        tries = [(torch.sigmoid(values), 1), (torch.sigmoid(-values), -1)]
    wanted = outputs if values.shape[1] > 1 else outputs[:, -1:]
    if outputs.shape[1] == 1:  # a single number may be anything between 0 and 1: a sigmoid is taken as it is
        tries = [(given, sign) for given, sign in tries if float((given - wanted).abs().max()) <= SUM_TOLERANCE]
    found = [(residual, place, sign) for given, sign in tries if (residual := _residual(wanted, given)) is not None]
    return min(found, default=None)


def _residual(wanted: Tensor, given: Tensor) -> float | None:
    """Largest residual of ``wanted = a·given + b`` with a > 0 as a share of the spread; ``None`` if it is no fit."""
    x, y = (values.double() - values.double().mean() for values in (given, wanted))
    if not float(x.square().sum()) > 0:
        return None
    factor = float((x * y).sum() / x.square().sum())
    residual = float((y - factor * x).abs().max()) / spread(wanted)
    return residual if factor > 0 and residual <= _FIT_TOLERANCE else None
