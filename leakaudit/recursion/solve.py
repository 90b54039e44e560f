"""Solve one layer's equations: the cheapest method that the structure allows.

1. **K0**: where the gradient constraints alone have full column rank, QR of the small block K0 with one right-hand side
   per input channel. Fully connected layers are the case K0 = δ: x = Gᵀδ/‖δ‖².
2. **LSMR** (Fong & Saunders, SIAM J. Sci. Comput. 2011) on [s·K; r∘W] without forming it, in float64, with the blocks
   scaled to equal norm: unscaled, K is up to 1000 times smaller than W towards the input and LSMR stalls. Started at
   zero it gives the minimum-norm solution where the layer is deficient.
3. **Dense** eigendecomposition of the Gram matrix with refinement, only for few unknowns and where LSMR did not
converge.

Every result carries its relative residual; the rank comes from shapes (`leakaudit.risk.structural`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakaudit.recursion.system import LayerSystem

BLOCK_WORK = 4e9
"""Largest rows · columns² of K0 for QR; chosen for time, about a second on one core."""
BLOCK_CONDITION = 1e3
"""Condition of K0 beyond which the weight constraints are used too; chosen, not measured."""
PROBE_FLOOR = 1e-4
"""Squared length of a probe that may fail to come back by lack of convergence; chosen, not measured."""
GRAM_FLOOR = 1e-7
"""Relative singular value that a Gram matrix in float64 still resolves: 7 times the root of its precision."""


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """Effort of the linear solver.

    Args:
        iterations: Largest number of LSMR iterations per layer; chosen, the layers of the authors' CNN6 (arXiv
            2010.07733) take at most 472.
        tolerance: LSMR's ``atol`` and ``btol``; chosen, 4,500 times float64's precision.
        dense_limit: Unknowns up to which the dense method may be used; chosen for time.
    """

    iterations: int = 20_000
    tolerance: float = 1e-12
    dense_limit: int = 1500


@dataclass(frozen=True, eq=False)
class Solution:
    """Input of one layer.

    Args:
        x: Shaped as the layer's input.
        residual: ‖A x - b‖ / ‖b‖ of the balanced system.
        method: ``K0``, ``LSMR`` or ``dense``.
        iterations: LSMR iterations.
        converged: Whether the method reached its tolerance.
    """

    x: Tensor
    residual: float
    method: str
    iterations: int = 0
    converged: bool = True


def solve(
    system: LayerSystem, full_gradient_rank: bool, settings: SolverSettings, poll: Callable[[], None] = lambda: None
) -> Solution:
    """Solve for the layer's input, minimum norm where it is deficient.

    Args:
        system: The equations.
        full_gradient_rank: Whether the gradient constraints alone may determine the input, by shapes.
        settings: Effort.
        poll: Called before every product; raises to stop.
    """
    scale = system.balance()
    x = _solve_block(system) if full_gradient_rank else None
    if x is not None:
        return Solution(x, system.residual(x, scale), "K0")
    found = _solve_lsmr(system, scale, settings, poll)
    if not found.converged and found.x.numel() <= settings.dense_limit:
        dense = _solve_dense(system, scale)
        found = dense if dense.residual <= found.residual else found
    return found


def _solve_block(system: LayerSystem) -> Tensor | None:
    """x from K0 alone, or ``None`` where K0 is too large, too ill-conditioned, or there is none."""
    rows, columns = system.map.block_size()
    if system.gradient is None or rows < columns or rows * columns**2 > BLOCK_WORK:
        return None
    block = system.map.block(system.delta)
    if block is None:
        return None
    q, r = torch.linalg.qr(block)
    values = torch.linalg.svdvals(r)
    if bool((values[:, -1] * BLOCK_CONDITION < values[:, 0]).any()) or not bool((values[:, 0] > 0).all()):
        return None
    right = q.mT @ system.map.split(system.gradient)
    return system.map.join(torch.linalg.solve_triangular(r, right, upper=True))


def _solve_lsmr(system: LayerSystem, scale: float, settings: SolverSettings, poll: Callable[[], None]) -> Solution:
    x, iterations, converged = _lsmr(system, scale, system.right_side(scale), settings, poll)
    return Solution(x, system.residual(x, scale), "LSMR", iterations, converged)


def _lsmr(
    system: LayerSystem, scale: float, right: Tensor, settings: SolverSettings, poll: Callable[[], None]
) -> tuple[Tensor, int, bool]:
    """Minimum-norm least-squares solution of A x = right, iterations, and whether it converged."""
    shape = system.map.input_shape

    def apply(x: NDArray[np.float64]) -> NDArray[np.float64]:
        poll()
        product: NDArray[np.float64] = system.apply(torch.from_numpy(x.reshape(shape)), scale).numpy()
        return product

    def adjoint(q: NDArray[np.float64]) -> NDArray[np.float64]:
        product: NDArray[np.float64] = system.adjoint(torch.from_numpy(q.reshape(-1)), scale).flatten().numpy()
        return product

    count = prod(shape)
    operator = scipy.sparse.linalg.LinearOperator(
        (right.numel(), count), matvec=apply, rmatvec=adjoint, dtype=np.float64
    )
    limit = min(settings.iterations, 5 * count + 100)
    tolerance = settings.tolerance
    x, reason, iterations, *_ = scipy.sparse.linalg.lsmr(
        operator, right.numpy(), atol=tolerance, btol=tolerance, conlim=0, maxiter=limit
    )
    return torch.from_numpy(x).reshape(shape), int(iterations), reason != 7


def null_space_probe(
    system: LayerSystem, where: Tensor, settings: SolverSettings, poll: Callable[[], None] = lambda: None
) -> int:
    """Estimate how many directions of the input the equations leave open, for layers too large for a rank.

    A random x₀ ~ N(0, 1) is measured and solved for again. What does not come back is its part in the null space, of
    mean squared length equal to the deficit; 0 is returned where everything comes back.
    """
    scale = system.balance()
    generator = torch.Generator().manual_seed(1)
    probe = torch.randn(system.map.input_shape, generator=generator, dtype=torch.float64) * where
    back, _, _ = _lsmr(system, scale, system.apply(probe, scale), settings, poll)
    lost = float((probe - back).square().sum())
    return 0 if lost < PROBE_FLOOR else max(1, round(lost))


def _gram(system: LayerSystem, scale: float) -> Tensor:
    """AᵀA (n, n), one column per product; for few unknowns."""
    count = prod(system.map.input_shape)
    unit = torch.eye(count, dtype=torch.float64)
    columns = [
        system.adjoint(system.apply(row.reshape(system.map.input_shape), scale), scale).flatten() for row in unit
    ]
    gram = torch.stack(columns)
    return 0.5 * (gram + gram.T)


def _solve_dense(system: LayerSystem, scale: float) -> Solution:
    """Pseudo-inverse of the Gram matrix, with two steps of refinement against the squared condition number."""
    values, vectors = torch.linalg.eigh(_gram(system, scale))
    kept = values > values[-1] * GRAM_FLOOR**2 * len(values)
    inverse = torch.where(kept, 1 / values.clamp_min(1e-300), 0.0)
    right = system.right_side(scale)
    x = torch.zeros(system.map.input_shape, dtype=torch.float64)
    for _ in range(3):
        downhill = system.adjoint(right - system.apply(x, scale), scale).flatten()
        x = x + (vectors @ (inverse * (vectors.T @ downhill))).reshape(x.shape)
    return Solution(x, system.residual(x, scale), "dense")
