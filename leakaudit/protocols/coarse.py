r"""A surrogate of many local steps: a few large ones, each drawn towards the straight way between both ends.

.. math:: w_1 = \theta_0, \qquad
   w_{m+1} = (1-c_m)\,(w_m - r_m\, g(w_m)) + c_m\,(\theta_0 + a_m (\theta_K - \theta_0)), \qquad
   u = \sum_m s_m\, g(w_m)

g is the gradient of all samples of the guess, and the rates r, shares s, places a and pulls c are learnt, so neither
number, size nor rate of the client's steps need be known. Large steps alone overshoot: what is known of θ_K keeps them
on the client's way. It has the bent path of `leakaudit.protocols.surrogates` in it, and costs M gradients.

At the client's own samples, after 40 steps of a ReLU CNN, five are off the update by a cosine distance of .03, the bent
path by .19 and one gradient on the straight way by .43; another order of the very steps by .014
(`benchmarks/results/local_steps.md`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakaudit.protocols.base import Update
from leakaudit.protocols.surrogates import OnTheWay, Slope

RATES = "rates"
"""Name of the unknown lengths of the steps, logarithms of their ratio to the whole way (M - 1,)."""
SHARES = "shares"
"""Name of the unknown shares of the gradients in the update, logarithms up to a common factor (M,)."""
PLACES = "places"
"""Name of the unknown places on the straight way that steps are drawn to, logits (M - 1,)."""
PULLS = "pulls"
"""Name of the unknown strengths of that, logits (M - 1,)."""
FIRST_PLACE, LAST_PLACE = -1.0, 0.875
"""Where the places begin, logits of 0.27 and 0.71; chosen, and what `benchmarks/results/local_steps.md` was measured
with."""


def begun(count: int, like: Tensor) -> dict[str, Tensor]:
    """Unknowns of so many coarse steps to begin with: equal steps and shares, each drawn halfway to the straight way.

    Args:
        count: M, at least 2.
        like: For type and device.
    """
    return {
        RATES: like.new_full((count - 1,), -math.log(count)),
        SHARES: like.new_full((count,), -math.log(count)),
        PLACES: torch.linspace(FIRST_PLACE, LAST_PLACE, count - 1).to(like),
        PULLS: like.new_zeros(count - 1),
    }


@dataclass(frozen=True, eq=False)
class CoarseSteps(OnTheWay):
    """A few steps of all samples from the weights before to about those after, whose number the unknowns tell."""

    name: ClassVar[str] = "coarse"
    title: ClassVar[str] = "Coarse steps between the weights before and after"

    def _along(self, before: Mapping[str, Tensor], unknowns: Mapping[str, Tensor], slope: Slope) -> Update:
        """The weighted sum of the gradients on the way."""
        rates, shares = unknowns[RATES].exp(), unknowns[SHARES].exp()
        places, pulls = unknowns[PLACES].sigmoid(), unknowns[PULLS].sigmoid()
        found = slope(before)
        scale = self._scale(found)
        total = {name: shares[0] * tensor for name, tensor in found.items()}
        now = before
        for rate, share, place, pull in zip(rates, shares[1:], places, pulls, strict=True):
            now = self._next(now, before, found, rate * scale, place, pull)
            found = slope(now)
            total = {name: tensor + share * found[name] for name, tensor in total.items()}
        return total

    def _next(
        self, now: Mapping[str, Tensor], before: Mapping[str, Tensor], slope: Update, rate: Tensor, *drawn: Tensor
    ) -> dict[str, Tensor]:
        """Weights after a step, drawn to a place by a pull."""
        place, pull = drawn
        return {
            name: (1 - pull) * (tensor - rate * slope[name]) + pull * (before[name] + place * self.way[name])
            if name in self.way
            else tensor
            for name, tensor in now.items()
        }
