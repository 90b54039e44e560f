"""One outer product behind a matrix that is noisy, rounded, or known in part.

With ``G = δ uᵀ`` and its bias ``g = δ``, the matrix ``[G | g] = δ [uᵀ 1]`` has rank one. Through noise of equal
standard deviation on every entry, its leading singular vector is the most likely ``[uᵀ 1]`` (total least squares, Golub
and Van Loan 1980); columns with other noise are weighted first. Of a pruned matrix, alternating least squares
over the entries that are there gives the rest; where rows and columns hang together, that is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SWEEPS = 50
"""Alternations, each exact in one factor; chosen."""
SURE = 6.0
"""Standard deviations that the bias must contribute for its scale to be used, against a sign by chance; chosen."""
TINY = 1e-30
"""Standard deviation of noise in place of none, relative to the matrix: below the precision of float64."""


@dataclass(frozen=True, eq=False)
class Leading:
    """The leading direction of ``[G | g]``.

    Args:
        strength: Its singular value, over the standard deviation of the noise.
        direction: Unit vector (n,) along u, of unknown scale and sign.
        operand: u (n,), where the bias gives the scale, else ``None``.
        shape: Of the matrix that it was taken from.
    """

    strength: float
    direction: Tensor
    operand: Tensor | None
    shape: tuple[int, int]


def leading(rows: Tensor, bias: Tensor | None, noise: float, bias_noise: float) -> Leading:
    """Of a layer's gradient G (m, n) and its bias' gradient g (m,).

    Args:
        rows: G in float64.
        bias: g, or ``None``.
        noise: Standard deviation of the noise on G; 0 for none.
        bias_noise: The same on g.
    """
    size = float(rows.norm())
    noise, bias_noise = max(noise, TINY * size), max(bias_noise, noise, TINY * size)
    parts = [rows / noise] if bias is None else [rows / noise, bias[:, None] / bias_noise]
    matrix = torch.cat(parts, 1)
    _, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    strength, vector = float(singular[0]), right[0]
    shape = (matrix.shape[0], matrix.shape[1])
    along = vector[: rows.shape[1]]
    direction = along / along.norm().clamp_min(1e-300)
    if bias is None or abs(strength * float(vector[-1])) < SURE:
        return Leading(strength, direction, None, shape)
    return Leading(strength, direction, along * noise / (vector[-1] * bias_noise), shape)


def complete(rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The G (m, n) and g (m,) of rank one that agree with the entries that are not zero; 0 where none tell."""
    shown = rows if bias is None else torch.cat([rows, bias[:, None]], 1)
    known = (shown != 0).to(shown)
    left = shown.abs().amax(1) if bias is None else bias.clone()
    if not bool(left.any()):
        left = shown.abs().amax(1)
    for _ in range(SWEEPS):
        right = (shown.T @ left) / (known.T @ left.square()).clamp_min(1e-300)
        left = (shown @ right) / (known @ right.square()).clamp_min(1e-300)
    whole = torch.outer(left, right)
    return (whole, None) if bias is None else (whole[:, :-1], whole[:, -1])
