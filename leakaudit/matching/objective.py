r"""How far the gradient of a guess is from the observed update.

.. math:: D_{\cos}(g, g^*) = 1 - \frac{\langle g, g^*\rangle}{\|g\|\,\|g^*\|}
   \qquad D_2(g, g^*) = \frac{\|g - g^*\|^2}{\|g^*\|^2}

over all tensors concatenated (Geiping et al. 2020, arXiv 2003.14053, eq. 4; Zhu et al. 2019, arXiv 1906.08935), or the
mean of the cosine distances of the single tensors.

Partial matching (after FedLeak, Fan et al. 2025, arXiv 2506.08435) leaves out the small entries of every tensor, which
many inputs have in common. Which entries the authors choose is not in their abstract, all that was accessible; here
they are those of largest |g*|.

Deviations from the authors' code: the cosine distance is computed as half the squared distance of the two unit vectors,
the same number without the cancellation of ``1 - cos`` in float32. Near the solution that cancellation, not the
landscape, limits what the authors' form recovers. The squared distance is divided by ‖g*‖², so that weights of priors
and tolerances mean the same on every model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import torch
from torch import Tensor

from leakaudit.matching.once import Apart, Flat, Lean, Linear, joined, norm_of, pairs_of
from leakaudit.matching.settings import Distance, LayerWeights
from leakaudit.target.parts import squared, squared_difference

TINY = 1e-38
"""Squared norm that stands for zero: where the precision of float32 ends."""
LARGE = 1 << 24
"""Entries of all gradients, 64 MB in float32, from which on memory counts more than a few operations; chosen."""


class GradientDistance(Protocol):
    """A differentiable distance of gradients, in the order of the parameters, from the observed ones."""

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Distance, a scalar."""


def squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Σ over all entries of all tensors, squared; a scalar."""
    total = tensors[0].square().sum()
    for tensor in tensors[1:]:
        total = total + tensor.square().sum()
    return total


def entries(tensors: Sequence[Tensor]) -> int:
    """Of all tensors."""
    return sum(tensor.numel() for tensor in tensors)


def distance_once(distance: GradientDistance, gradients: Sequence[Tensor]) -> Tensor:
    """The distance of gradients, a scalar that can be differentiated once.

    The derivative is written out. Of large models, autograd would keep the differences too and make two copies of the
    gradients on the way back; here it keeps the gradients alone. Of small ones it would pass over the gradients three
    times as often; on a GPU it still does, as there the numbers in between would have to be waited for.
    """
    if not isinstance(distance, CosineDistance | EuclideanDistance):
        return distance(gradients)
    if entries(gradients) >= LARGE:
        return cast(Tensor, Lean.apply(distance, *gradients))
    apart = any(g.device.type != "cpu" or g.dtype != gradients[0].dtype for g in gradients)
    return distance(gradients) if apart else cast(Tensor, Flat.apply(distance, *gradients))


@dataclass(frozen=True, eq=False)
class CosineDistance:
    """Cosine distance between the gradient of a guess and the observed update.

    Args:
        observed: Observed gradients, one tensor per parameter, in the parameters' order. Not all zero.
    """

    observed: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        norm = squared_norm(self.observed).clamp_min(TINY).sqrt()
        unit = None if entries(self.observed) >= LARGE else tuple(g / norm for g in self.observed)
        object.__setattr__(self, "_norm", norm)
        object.__setattr__(self, "_unit", unit)

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Distance in 0..2 of gradients in the same order, a differentiable scalar."""
        norm: Tensor = getattr(self, "_norm")  # noqa: B009
        unit: Iterable[Tensor] = getattr(self, "_unit") or (g / norm for g in self.observed)  # noqa: B009
        scale = squared_norm(gradients).clamp_min(TINY).rsqrt()
        return 0.5 * squared_norm([g * scale - u for g, u in zip(gradients, unit, strict=True)])

    @cached_property
    def _flat(self) -> Tensor:
        """The unit vector of what was observed (N,)."""
        unit: Sequence[Tensor] = getattr(self, "_unit")  # noqa: B009
        return joined(unit)

    def apart(self, flat: Tensor) -> Apart:
        """The distance and its derivative, see :class:`Apart`; overwrites the gradients."""
        length = norm_of(flat)
        if length <= TINY**0.5:  # as good as nothing, which points nowhere
            return Apart(0.5, self._flat * -(TINY**-0.5))
        unit = flat.div_(length)
        difference = unit - self._flat  # of unit vectors: squares of smaller ones would vanish
        value = 0.5 * norm_of(difference) ** 2
        return Apart(value, difference.sub_(unit, alpha=float(difference.dot(unit))).mul_(1 / length))

    def linear(self, gradients: Sequence[Tensor]) -> Linear:
        """The distance and its derivative, see :class:`Linear`."""
        norm: Tensor = getattr(self, "_norm")  # noqa: B009
        size, inverse = sum(map(squared, gradients)), 1 / float(norm)
        scale = max(size, TINY) ** -0.5
        apart = along = 0.0
        for gradient, observed in pairs_of(gradients, self.observed):
            unit = scale * gradient
            difference = unit - inverse * observed
            apart, along = apart + float(difference.square().sum()), along + float((unit * difference).sum())
        return Linear(0.5 * apart, scale**2 * (1 - along if size > TINY else 1.0), scale * inverse)


@dataclass(frozen=True, eq=False)
class LayerwiseDistance:
    """Mean of the cosine distances of the single tensors.

    Args:
        observed: As in :class:`CosineDistance`; tensors that are zero everywhere are left out.
    """

    observed: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        parts = tuple(CosineDistance((g,)) if bool(g.any()) else None for g in self.observed)
        object.__setattr__(self, "_parts", parts)

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Distance in 0..2 of gradients in the same order, a differentiable scalar."""
        parts: tuple[CosineDistance | None, ...] = getattr(self, "_parts")  # noqa: B009
        values = [part([g]) for part, g in zip(parts, gradients, strict=True) if part is not None]
        return sum(values[1:], start=values[0]) / len(values)


@dataclass(frozen=True, eq=False)
class EuclideanDistance:
    """Squared distance over the squared norm of the observed update.

    Args:
        observed: As in :class:`CosineDistance`.
    """

    observed: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_norm", squared_norm(self.observed).clamp_min(TINY))

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Distance, 1 at gradient zero; a differentiable scalar."""
        norm: Tensor = getattr(self, "_norm")  # noqa: B009
        return squared_norm([g - o for g, o in zip(gradients, self.observed, strict=True)]) / norm

    @cached_property
    def _flat(self) -> Tensor:
        """What was observed (N,)."""
        return joined(self.observed)

    def apart(self, flat: Tensor) -> Apart:
        """The distance and its derivative, see :class:`Apart`; overwrites the gradients."""
        norm = float(getattr(self, "_norm"))  # noqa: B009
        difference = flat.sub_(self._flat)
        return Apart(norm_of(difference) ** 2 / norm, difference.mul_(2 / norm))

    def linear(self, gradients: Sequence[Tensor]) -> Linear:
        """The distance and its derivative, see :class:`Linear`."""
        norm = float(getattr(self, "_norm"))  # noqa: B009
        apart = sum(squared_difference(g, o) for g, o in zip(gradients, self.observed, strict=True))
        return Linear(apart / norm, 2 / norm, 2 / norm)


@dataclass(frozen=True, eq=False)
class WeightedDistance:
    """Another distance over chosen tensors, each scaled by √weight; a weight of 0 leaves its tensor out.

    Args:
        inner: Distance of the scaled tensors that remain.
        scales: √weight of every tensor.
    """

    inner: GradientDistance
    scales: tuple[float, ...]

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Distance of gradients in the parameters' order, a differentiable scalar."""
        return self.inner(_scaled(gradients, self.scales))


@dataclass(frozen=True, eq=False)
class PartialDistance:
    """Another distance over the entries of the tensors that a mask keeps.

    Args:
        inner: Distance of the masked tensors.
        masks: 1 and 0, shaped as the tensors.
    """

    inner: GradientDistance
    masks: tuple[Tensor, ...]

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Distance of gradients in the parameters' order, a differentiable scalar."""
        return self.inner([g * m for g, m in zip(gradients, self.masks, strict=True)])


def strongest_entries(tensor: Tensor, share: float) -> Tensor:
    """1 at the largest entries by absolute value, at least one and at most this share of them, 0 elsewhere."""
    count = max(1, int(share * tensor.numel()))
    chosen = tensor.abs().flatten().topk(count).indices
    return torch.zeros_like(tensor).flatten().index_fill(0, chosen, 1.0).view_as(tensor)


KINDS: dict[str, type[CosineDistance] | type[LayerwiseDistance] | type[EuclideanDistance]] = {
    "cosine": CosineDistance,
    "layerwise": LayerwiseDistance,
    "euclidean": EuclideanDistance,
}


def make_distance(
    observed: Sequence[Tensor],
    kind: Distance = "cosine",
    weights: LayerWeights = "equal",
    strongest: int = 0,
    share: float = 1.0,
) -> GradientDistance:
    """The distance with these layer weights over the `strongest` tensors (0: all), by the norm of the observed ones.

    Of each tensor, only this share of its largest observed entries counts.
    """
    if share < 1:
        masks = tuple(strongest_entries(g, share) for g in observed)
        kept = [g * m for g, m in zip(observed, masks, strict=True)]
        return PartialDistance(make_distance(kept, kind, weights, strongest), masks)
    if weights == "equal" and strongest == 0:
        return KINDS[kind](tuple(observed))
    factors = layer_weights(len(observed), weights)
    if strongest:
        order = sorted(range(len(observed)), key=lambda i: -float(observed[i].norm()))
        factors = [f if i in order[:strongest] else 0.0 for i, f in enumerate(factors)]
    scales = tuple(math.sqrt(f) for f in factors)
    return WeightedDistance(KINDS[kind](_scaled(observed, scales)), scales)


def layer_weights(count: int, kind: LayerWeights) -> list[float]:
    """Weights of `count` tensors, first layers heaviest, with mean 1.

    The authors of IG use (L, …, 1)/L and the softmax of (L, …, 1); only the ratios matter for the cosine.
    """
    if kind == "equal":
        return [1.0] * count
    raw = [float(count - i) if kind == "linear" else math.exp(-i) for i in range(count)]
    return [w * count / sum(raw) for w in raw]


def _scaled(tensors: Sequence[Tensor], scales: Sequence[float]) -> tuple[Tensor, ...]:
    return tuple(t * s for t, s in zip(tensors, scales, strict=True) if s > 0)
