"""Sparse combinations of a layer's directions: the search of SPEAR (Dimitrov et al. 2024, arXiv 2403.03945).

With orthonormal columns U (m, B) that span the errors of B samples, a column q of the mixing matrix is recognised by
the zeros of ``U q``. Kernels of B − 1 sampled rows of U are the starts; each is improved by ``min ‖U q‖₁`` on the
sphere (iteratively reweighted least squares, many starts at once), and solved once more on the rows that it made zero.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

POWERS = (1.0, 0.5)
"""p of the rounds, in turn; chosen: half finds columns that 1 does not, and fewer of the others."""
WIDTH = {1.0: 0.3, 0.5: 1.0}
"""First ε by p, over the mean entry; chosen."""
TELLING = 0.01
"""Noise of a ratio of two entries, relative, up to which it is compared; chosen."""
ENTANGLED = 0.05
"""Rows with one ratio, as a share of the smaller of two columns, that are more than chance; chosen: a mixture of two
has it in about half, one of four in an eighth."""
SAME = 1 - 1e-6
"""|cos| above which two candidates are the same column; chosen, an angle of 0.08 degrees."""


def starts(left: Tensor, found: Tensor, count: int, generator: Generator) -> Tensor:
    """Unit directions (count, B): kernels of B − 1 sampled rows, half of them freed of the columns found so far."""
    rows, size = left.shape
    sampled = torch.rand((count, rows), generator=generator).argsort(1)[:, : size - 1].to(left.device)
    kernels = torch.linalg.qr(left[sampled].transpose(1, 2), mode="complete").Q[:, :, -1]
    if 0 < len(found) < size:
        basis = torch.linalg.qr(found.T).Q
        kernels[::2] -= kernels[::2] @ basis @ basis.T
    directions: Tensor = kernels / kernels.norm(dim=1, keepdim=True)
    return directions


def sparsify(left: Tensor, directions: Tensor, steps: int, power: float = 1.0) -> Tensor:
    """Descend ``‖U q‖_p`` on the unit sphere from many directions (N, B) at once, by reweighted inverse iteration.

    With weights ``w_j = ((U_j q)² + ε²)^(p/2 − 1)`` and ε shrinking, each step solves ``(Uᵀ diag(w) U) q⁺ = q``. A
    column that is like others where both are not zero is no minimum at p = 1, and is one below.

    Args:
        left: U (m, B).
        directions: Starts (N, B).
        steps: Reweightings.
        power: p.
    """
    wide = WIDTH[power]
    rows, size = left.shape
    products = (left[:, :, None] * left[:, None, :]).reshape(rows, -1)
    identity = torch.eye(size, dtype=left.dtype, device=left.device)
    for step in range(steps):
        values = directions @ left.T
        width = values.abs().mean(1, keepdim=True) * max(1e-6, wide * 0.7**step)
        weights = (values.square() + width.square()) ** (power / 2 - 1)
        weights = weights / weights.mean(1, keepdim=True)
        normal = (weights @ products).view(-1, size, size)
        ridge = 1e-12 * normal.diagonal(dim1=1, dim2=2).mean(1)
        factor = torch.linalg.cholesky(normal + ridge[:, None, None] * identity)
        for _ in range(2):
            directions = torch.cholesky_solve(directions[:, :, None], factor)[:, :, 0]
            directions = directions / directions.norm(dim=1, keepdim=True)
    return directions


def count_zeros(left: Tensor, directions: Tensor, noise: float) -> Tensor:
    """Zeros of ``U q`` for each direction (N,)."""
    return ((directions @ left.T).abs() <= noise).sum(1)


def distinct(left: Tensor, directions: Tensor, noise: float) -> Tensor:
    """Directions with more zeros than chance gives, most zeros first, no repetition, solved anew on their zeros."""
    zeros = count_zeros(left, directions, noise)
    enough = zeros >= 2 * left.shape[1]
    directions = directions[enough][zeros[enough].argsort(descending=True)]
    kept: list[Tensor] = []
    while len(directions) > 0:
        first = directions[0]
        directions = directions[1:][(directions[1:] @ first).abs() < SAME]
        null_rows = left[(left @ first).abs() <= noise]
        kept.append(torch.linalg.eigh(null_rows.T @ null_rows).eigenvectors[:, 0])
    return torch.stack(kept) if kept else directions.reshape(0, left.shape[1])


def select(candidates: Tensor, size: int) -> Tensor:
    """The first `size` candidates that are independent of those before them, in order."""
    chosen: list[Tensor] = []
    basis = candidates.new_empty((0, candidates.shape[1]))
    for candidate in candidates:
        rest = candidate - (candidate @ basis.T) @ basis
        rest = rest - (rest @ basis.T) @ basis
        if float(rest.norm()) > 1e-4:
            chosen.append(candidate)
            basis = torch.cat([basis, (rest / rest.norm())[None]])
        if len(chosen) == size:
            break
    return torch.stack(chosen) if chosen else basis


def entangled(errors: Tensor, noise: float) -> bool:
    """Whether one of a choice of columns (B, m) holds another beside itself, so that a sparser choice exists.

    A column that is ``d + β e`` beside e has the same ratio to it, β, wherever d is zero and e is not: in a quarter
    of the rows where each is zero in half. Columns of single samples have ratios of their own.

    Args:
        errors: The columns.
        noise: What is wrong with an entry of a column of unit norm.
    """
    unit = errors / errors.norm(dim=1, keepdim=True).clamp_min(1e-300)
    doubt = noise / unit.abs().clamp_min(noise)
    for i in range(len(unit)):
        for j in range(i):
            both = (doubt[i] + doubt[j] <= TELLING).nonzero().flatten()
            ratio, wrong = unit[i][both] / unit[j][both], (doubt[i] + doubt[j])[both]
            allowed = (wrong[:, None] + wrong[None, :]) * ratio.abs()[:, None]
            same = ((ratio[:, None] - ratio[None, :]).abs() <= allowed).sum(1)
            support = min(int((doubt[i] < 1).sum()), int((doubt[j] < 1).sum()))
            if len(both) and int(same.max()) > ENTANGLED * support:
                return True
    return False
