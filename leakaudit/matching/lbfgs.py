"""L-BFGS with a strong Wolfe line search (Nocedal 1980; Liu and Nocedal 1989).

The line search is torch's own, by the function that does it. Of the rest, ``torch.optim.LBFGS`` imports torch's
compiler as soon as it is given a tensor, which takes a second, and a direction from fifty pairs of 3,072 entries takes
it half as long again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

CURVATURE = 1e-10
"""⟨s, y⟩ up to which a pair is forgotten; of ``torch.optim.LBFGS``, like the rest chosen there."""
EVALUATIONS = 1_000_000
"""Of one line search at most; chosen: its bracket shrinks to nothing long before."""

Evaluate = Callable[[Tensor], tuple[float, Tensor]]
"""Objective and its gradient (N,) at a point (N,)."""


@torch.no_grad()
def lbfgs_descent(evaluate: Evaluate, start: Tensor, history: int) -> Tensor:
    """Descend until nothing is gained along the direction; to end before, `evaluate` raises.

    The iterates are those of ``torch.optim.LBFGS(line_search_fn="strong_wolfe")`` without tolerances, to rounding.

    Args:
        evaluate: What is minimised, with its gradient.
        start: Where to begin (N,).
        history: Pairs that are remembered.

    Returns:
        The last iterate (N,).
    """
    point = start.clone()
    value, gradient = evaluate(point)
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=history)
    direction, scale = -gradient, 1.0
    length = min(1.0, 1.0 / max(float(gradient.abs().sum()), CURVATURE))
    while (slope := float(gradient.dot(direction))) < 0:
        before = gradient
        value, gradient, length, _ = _strong_wolfe(  # type: ignore[no-untyped-call]
            lambda x, t, d: evaluate(torch.add(x, d, alpha=t)),
            *(point, length, direction, value, gradient, slope),
            max_ls=EVALUATIONS,
        )
        length = float(length)
        step = direction * length
        if not bool(step.any()):
            break
        point, change = point + step, gradient - before
        curvature = float(change.dot(step))
        if curvature > CURVATURE:
            pairs.append((step, change, 1 / curvature))
            scale = curvature / float(change.dot(change))
        direction, length = _direction(gradient, pairs, scale), 1.0
    return point


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]], scale: float) -> Tensor:
    """−H g by the two loops of Nocedal (1980); pairs of steps, changes of the gradient and 1 / ⟨step, change⟩."""
    direction, shares = -gradient, []
    for step, change, inverse in reversed(pairs):
        shares.append(inverse * float(step.dot(direction)))
        direction.sub_(change, alpha=shares[-1])
    direction.mul_(scale)
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction.add_(step, alpha=share - inverse * float(change.dot(direction)))
    return direction
