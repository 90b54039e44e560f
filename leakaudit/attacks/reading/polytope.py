"""The polytope in which the samples behind a linear layer's gradient lie, and its vertices by linear programming.

With ``E = [∂ℓ/∂W | ∂ℓ/∂b] = Σ_i δ_i [x_i 1] / B``, of rank r, every sample is ``[x 1] = cᵀ R`` for the rows R
(r, n + 1) of an orthonormal basis of E's row space. All that is known of a sample is linear in c:

.. math:: low \\le x(c) \\le high, \\qquad 1 = c^T R_{n+1}, \\qquad d_k^T c = 0

the last for each sample k that was found already: with ``E = U S R`` and its error ``δ_k = U e``, its dual is
``d_k = S^{-1} e / B``, and ``d_k · c_i`` is 1 for i = k and 0 for every other sample. So each one found takes
one dimension away from the search for the others.

A sample with many entries at their bounds, as a row of categories has or a picture with black and white pixels, is a
vertex, which a linear program finds for some objective. Coefficients c are then solved for anew from the entries at
their bounds, which are far more than r, so that what is not at a bound is read to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakaudit.attacks.reading.first_layer import Entry
from leakaudit.observation import Observation

SLACK = 1e-5
"""How far an entry may leave its bounds, relative to their distance, and as much more for every sample that is
known, whose dual is not exact either; chosen, 84 times float32's precision."""
AT_BOUND = 1e-3
"""Distance from a bound up to which an entry counts as at it, relative to their distance; chosen."""
FIT = 1e-3
"""Largest distance from its bound of any such entry after the coefficients were solved for anew; chosen."""
DEPENDENT = 1e-4
"""Smallest singular value, relative to the largest, of the system that coefficients are solved from; chosen."""
ROUNDING = 1e-8
"""Least share of the largest singular value that rounding makes; a tenth of float32's precision."""
MARGIN = 10.0
"""Times rounding that a sample's singular value must be; chosen."""
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Polytope:
    """What is known of the coefficients c of a sample.

    Args:
        left: U (m, r), of the layer's rows.
        singular: S (r,).
        basis: R (r, n) of the sample's entries, and of their offset.
        one: R's last column (r,), whose product with c is 1.
        offset: What an entry is at c = 0 (n,).
        low: Bounds of the entries (n,).
        high: As well.
        blocks: Ranges of entries of which one is 1 and the others are 0.
        duals: d_k (k, r) of the samples that were found.
    """

    left: Vector
    singular: Vector
    basis: Vector
    one: Vector
    offset: Vector
    low: Vector
    high: Vector
    blocks: tuple[tuple[int, int], ...]
    duals: Vector

    @property
    def rank(self) -> int:
        """r, the number of samples with an error of their own."""
        return len(self.singular)

    @property
    def left_over(self) -> int:
        """Samples that were not found yet."""
        return self.rank - len(self.duals)

    def without(self, dual: Vector) -> Polytope:
        """The polytope of the other samples."""
        return replace(self, duals=np.concatenate([self.duals, dual[None]]))

    def entries(self, coefficients: Vector) -> Vector:
        """The sample (n,) of coefficients (r,)."""
        found: Vector = coefficients @ self.basis + self.offset
        return found

    def vertex(self, objective: Vector) -> Vector | None:
        """Coefficients (r,) of the vertex that maximises an objective (r,), or ``None`` where there is none."""
        if self.left_over == 1:  # one sample is left, which what is known of the others fixes
            return self.face(np.zeros(len(self.low), dtype=np.bool_), self.low).centre
        slack = SLACK * (1 + len(self.duals)) * (self.high - self.low)
        matrix = self.basis.T
        upper, lower = self.high + slack - self.offset, self.low - slack - self.offset
        result = scipy.optimize.linprog(
            -objective,
            A_ub=np.concatenate([matrix, -matrix]),
            b_ub=np.concatenate([upper, -lower]),
            A_eq=np.concatenate([self.one[None], self.duals]),
            b_eq=np.array([1.0, *[0.0] * len(self.duals)]),
            bounds=(None, None),
            method="highs",
        )
        return np.asarray(result.x, dtype=np.float64) if result.success else None

    def refined(self, coefficients: Vector) -> Face | None:
        """The face that the entries at their bounds leave of a vertex; ``None`` where they are not those of a sample.

        Of a table only its categories count, all of whose entries have to be at a bound: a program drives a number that
        nothing fixes to a bound as well.
        """
        values, span = self.entries(coefficients), self.high - self.low
        target = np.where(values - self.low < self.high - values, self.low, self.high)
        fixed = np.abs(values - target) <= AT_BOUND * span
        for start, stop in self.blocks:
            if not fixed[start:stop].all() or round(float(target[start:stop].sum())) != 1:
                return None
        if self.blocks:
            fixed = np.zeros_like(fixed)
            for start, stop in self.blocks:
                fixed[start:stop] = True
        face = self.face(fixed, target)
        off = np.abs(self.entries(face.centre) - target)[fixed] / span[fixed]
        return face if len(off) > self.rank and off.max() <= FIT else None

    def face(self, fixed: NDArray[np.bool_], target: Vector, duals: Vector | None = None) -> Face:
        """The coefficients of samples with some entries (n,) fixed, least squares over all that is known of them.

        Args:
            fixed: Which entries.
            target: Their values (n,).
            duals: Of the other samples (k, r); by default of those that were found.
        """
        others = self.duals if duals is None else duals
        matrix = np.concatenate([self.basis.T[fixed], self.one[None], others / _lengths(others)])
        wanted = np.concatenate([(target - self.offset)[fixed], [1.0], np.zeros(len(others))])
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        kept = singular > DEPENDENT * singular[0]
        centre = right[kept].T @ ((left.T @ wanted)[kept] / singular[kept])
        return Face(centre, right[~kept], fixed, target)

    def reach(self, point: Vector, direction: Vector) -> tuple[float, float]:
        """How far one may go from coefficients (r,) along a direction and stay within the bounds of every entry."""
        values, change = self.entries(point), direction @ self.basis
        moving = np.abs(change) > DEPENDENT * np.abs(change).max().clip(1e-300)
        ends = np.stack([(bound - values)[moving] / change[moving] for bound in (self.low, self.high)])
        return float(ends.min(0).max()), float(ends.max(0).min())


def _lengths(vectors: Vector) -> Vector:
    """Norms (k, 1) of vectors (k, r)."""
    found: Vector = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-300)
    return found


@dataclass(frozen=True, eq=False)
class Face:
    """Coefficients that agree with the entries at their bounds.

    Args:
        centre: The shortest of them (r,).
        free: Orthonormal directions (q, r) that these entries leave open, as two rows with the same categories do.
        fixed: The entries at their bounds (n,).
        target: What they are (n,).
    """

    centre: Vector
    free: Vector
    fixed: NDArray[np.bool_]
    target: Vector


def polytope(observation: Observation, entry: Entry) -> Polytope:
    """The polytope behind a layer that reads the input, with a bias."""
    rows = entry.rows(observation.update).double()
    bias = observation.update[str(entry.bias)].reshape(-1, 1).double()
    left, singular, right = torch.linalg.svd(torch.cat([rows, bias], 1), full_matrices=False)
    rank = row_rank(singular, observation.batch_size)
    scale, shift = entry.map.scale.double(), entry.map.shift.double()
    low, high = (b.double().expand(observation.domain.shape) for b in observation.domain.box(rows))
    order = entry.map.index.argsort()
    basis, one = right[:rank, :-1], right[:rank, -1]

    def plain(tensor: Tensor) -> Vector:
        found: Vector = tensor.cpu().numpy()
        return found

    return Polytope(
        left=plain(left[:, :rank]),
        singular=plain(singular[:rank]),
        basis=plain((basis / scale)[:, order]),
        one=plain(one),
        offset=plain((-shift / scale)[order]),
        low=plain(low.reshape(-1)),
        high=plain(high.reshape(-1)),
        blocks=tuple(observation.domain.blocks),
        duals=np.zeros((0, rank)),
    )


def row_rank(singular: Tensor, most: int) -> int:
    """Singular values (descending) that are more than rounding, whose size the one behind all samples shows."""
    behind = float(singular[most]) if len(singular) > most else 0.0
    floor = MARGIN * max(behind, ROUNDING * float(singular[0]))
    return max(1, int((singular[:most] > floor).sum()))
