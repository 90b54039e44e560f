"""The optimizers of local steps, as pure functions that can be differentiated and run under ``torch.func``.

They follow ``torch.optim``, operation by operation, so that float32 weights after K steps are the ones that a client
exchanges. Those of torch write in place and keep state by parameter, which neither ``vmap`` nor a second derivative
takes. Square roots begin at the smallest normal float32 where the derivative would be infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Name = Literal["sgd", "adam", "adamw", "rmsprop"]
OPTIMIZERS: tuple[Name, ...] = ("sgd", "adam", "adamw", "rmsprop")
LINEAR: tuple[Name, ...] = ("sgd",)
"""Optimizers whose steps are linear in the gradients: spans and ratios of a gradient survive them."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""torch's defaults of ``torch.optim.Adam`` and ``AdamW`` (Kingma and Ba 2015, arXiv 1412.6980, section 2)."""
ALPHA = 0.99
"""Smoothing of RMSprop, torch's default."""
SMALLEST = 1.1754944e-38
"""The smallest normal float32, under the root: where the precision of the type ends."""

Tensors = Mapping[str, Tensor]
State = dict[str, dict[str, Tensor]]
"""Moments by their name, then by tensor."""
Step = Callable[[Tensors, Tensors, State, int], tuple[dict[str, Tensor], State]]
"""(weights, gradients, state, steps done before) to weights and state after one more step."""


def make_step(
    name: Name, rate: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> Step:
    """One step of an optimizer of ``torch.optim`` with these settings, and its defaults for all others.

    Args:
        name: See :data:`OPTIMIZERS`.
        rate: Learning rate.
        momentum: Of ``sgd`` and ``rmsprop``.
        nesterov: Of ``sgd``.
        weight_decay: Added to the gradient, or taken off the weights by ``adamw``.
    """

    def step(weights: Tensors, gradients: Tensors, state: State, done: int) -> tuple[dict[str, Tensor], State]:
        after: dict[str, Tensor] = {}
        moments: State = {}
        for tensor, weight in weights.items():
            own = {kind: values[tensor] for kind, values in state.items()}
            gradient = gradients[tensor]
            if weight_decay and name == "adamw":
                weight = weight * (1 - rate * weight_decay)
            elif weight_decay:
                gradient = torch.add(gradient, weight, alpha=weight_decay)
            after[tensor], found = _RULES[name](weight, gradient, own, done, rate, momentum, nesterov)
            for kind, value in found.items():
                moments.setdefault(kind, {})[tensor] = value
        return after, moments

    return step


_Own = Mapping[str, Tensor]
_Rule = Callable[[Tensor, Tensor, _Own, int, float, float, bool], tuple[Tensor, dict[str, Tensor]]]


def _sgd(
    weight: Tensor, gradient: Tensor, own: _Own, done: int, rate: float, momentum: float, nesterov: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Polyak's momentum as torch has it: the first step is the gradient itself (Sutskever et al. 2013)."""
    if not momentum:
        return torch.add(weight, gradient, alpha=-rate), {}
    velocity = momentum * own["velocity"] + gradient if done else gradient
    direction = torch.add(gradient, velocity, alpha=momentum) if nesterov else velocity
    return torch.add(weight, direction, alpha=-rate), {"velocity": velocity}


def _adam(
    weight: Tensor, gradient: Tensor, own: _Own, done: int, rate: float, momentum: float, nesterov: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Adam, and AdamW once its decay is taken off."""
    square = gradient * gradient
    first = BETA1 * own["first"] + (1 - BETA1) * gradient if done else (1 - BETA1) * gradient
    second = BETA2 * own["second"] + (1 - BETA2) * square if done else (1 - BETA2) * square
    scale = float((1 - BETA2 ** (done + 1)) ** 0.5)
    below = second.clamp_min(SMALLEST).sqrt() / scale + EPSILON
    return weight - (rate / (1 - BETA1 ** (done + 1))) * first / below, {"first": first, "second": second}


def _rmsprop(
    weight: Tensor, gradient: Tensor, own: _Own, done: int, rate: float, momentum: float, nesterov: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    square = gradient * gradient
    mean = ALPHA * own["mean"] + (1 - ALPHA) * square if done else (1 - ALPHA) * square
    direction = gradient / (mean.clamp_min(SMALLEST).sqrt() + EPSILON)
    if not momentum:
        return weight - rate * direction, {"mean": mean}
    velocity = momentum * own["velocity"] + direction if done else direction
    return weight - rate * velocity, {"mean": mean, "velocity": velocity}


_RULES: dict[Name, _Rule] = {"sgd": _sgd, "adam": _adam, "adamw": _adam, "rmsprop": _rmsprop}


def impulses(
    steps: int, rate: float, momentum: float, nesterov: bool, weight_decay: float
) -> tuple[float, list[float]]:
    r"""How K steps of SGD weigh the start and each step's gradient.

    .. math:: \theta_K = a\,\theta_0 - \sum_k c_k\, g_k

    By the scalar recursion itself: once from 1 without gradients, and once from 0 with a gradient of 1 in the first
    step. What step k leaves after K steps is what the first one leaves after K − k.

    Returns:
        a, and :math:`c_1 … c_K`.
    """

    def weights(start: float, first: float) -> list[float]:
        weight, velocity, found = start, 0.0, []
        for k in range(steps):
            gradient = (first if k == 0 else 0.0) + weight_decay * weight
            velocity = momentum * velocity + gradient if k else gradient
            weight -= rate * (gradient + momentum * velocity if nesterov else velocity)
            found.append(weight)
        return found

    return weights(1.0, 0.0)[-1], [-weight for weight in reversed(weights(0.0, 1.0))]
