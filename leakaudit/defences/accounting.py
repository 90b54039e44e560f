r"""Upper bounds for the Gaussian mechanism, and for nothing else.

* **ε(δ)** over all steps, by Google's ``dp-accounting`` for one sample added or removed: in closed form where every
  sample takes part in every step (Balle and Wang 2018, arXiv 1805.06530), else by privacy loss distributions of the
  Poisson-subsampled mechanism, as Opacus' PRV accountant does. The older Rényi accounting (Mironov 2017, arXiv
  1702.07476), which Opacus' RDP accountant and Flower's users print, gives a larger ε for the same noise; it is
  computed beside, so that numbers from there are recognised.
* **ReRo** (Balle et al. 2022, arXiv 2201.04845): an attacker who guesses a sample with probability κ before seeing the
  updates reconstructs it with probability at most γ after. For a mechanism with trade-off function f, γ = 1 − f(κ)
  (Kaissis et al. 2023, arXiv 2307.03928; the same value as the blow-up of Hayes et al. 2023, arXiv 2302.07225);
  for T full-batch steps of the Gaussian mechanism

  .. math:: \gamma = \Phi(\Phi^{-1}(\kappa) + \sqrt{T}/z)

  and with subsampling the smallest :math:`e^{\varepsilon}\kappa + \delta(\varepsilon)`, the same f by its tangents.

Both hold for whatever attack, and for every single sample. Fails silently if the noise that the client adds is not what
is declared; `leakaudit.defences.claims` compares. ``dp-accounting`` is imported where it is needed: every audit asks
for a bound in closed form, and few for more.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy

from leakaudit.defences.evidence import Guarantee

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from dp_accounting.pld import PLDAccountant

EPSILONS = np.concatenate([[0.0], np.geomspace(1e-3, 100.0, 400)])
"""Tangents of the trade-off function that are tried; chosen: any set gives a bound, and ten times as many lower γ by
0.01 % at most for the three subsampled settings of `benchmarks/results/rero.md`."""
LARGEST, TAIL = 300.0, 8.0
"""Largest privacy loss of a step that is accounted, chosen for memory; how many standard deviations above its mean that
is taken to be, chosen: a Gaussian exceeds them with probability 6e-16."""
COARSEST, FINER, SETTLED, POINTS = 1e-3, (0.1, 0.03, 0.01), 0.1, 3.2e5
"""Spacing of the grid of privacy losses, and the finer ones that are tried, relative to it; the relative change of ε at
which the next is not tried, since the error falls much faster; and how many points a grid may have, for time. All
chosen: ε is within 1 % of Opacus' for the settings of `benchmarks/results/dp_bound.md`."""
LONG = 2e4
"""Most points for the losses of one step on the coarsest grid, chosen for time: where losses are large, so is ε."""
MOST_NOISE = 1e3
"""Larger noise multipliers count as this one where steps are subsampled, for memory: the losses of a step would be far
below the spacing; chosen."""
ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64))
"""Orders of the Rényi divergence, as Opacus' RDP accountant has them; by convention."""


def gaussian(multiplier: float, rate: float, steps: int, delta: float, prior: float) -> Guarantee:
    """The guarantee of `steps` Gaussian mechanisms at a Poisson sampling rate.

    Args:
        multiplier: Noise multiplier z, above 0.
        rate: Probability that a sample (or client) takes part in a step.
        steps: Steps of the whole training.
        delta: δ for which ε is stated.
        prior: κ in 0..1.
    """
    return Guarantee(
        epsilon=epsilon(multiplier, rate, steps, delta),
        delta=delta,
        multiplier=multiplier,
        rate=rate,
        steps=steps,
        prior=prior,
        reconstruction=reconstruction_bound(multiplier, prior, rate=rate, steps=steps, delta=delta),
        one_step=reconstruction_bound(multiplier, prior),
        epsilon_one_step=epsilon(multiplier, 1.0, 1, delta),
        epsilon_renyi=renyi_epsilon(multiplier, rate, steps, delta),
    )


def epsilon(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """ε of `steps` Gaussian mechanisms at a Poisson sampling rate; infinite where a sample's loss exceeds `LARGEST`."""
    if rate == 1:  # steps of a Gaussian mechanism are one with less noise
        whole = multiplier / math.sqrt(steps)
        if _largest(whole) > LARGEST:
            return math.inf
        from dp_accounting import get_epsilon_gaussian

        with np.errstate(divide="ignore"):  # no noise is too much: then δ is 0, and ε too
            return float(get_epsilon_gaussian(whole, delta))
    accountant = _accountant(multiplier, rate, steps, delta)
    return math.inf if accountant is None else float(accountant.get_epsilon(delta))


def renyi_epsilon(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """The same by Rényi accounting: an upper bound on :func:`epsilon` that is not as tight."""
    if _largest(multiplier) > LARGEST:
        return math.inf
    multiplier = min(multiplier, MOST_NOISE if rate < 1 else MOST_NOISE * math.sqrt(steps))
    from dp_accounting import SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant, log = RdpAccountant(orders=ORDERS), logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # an order whose divergence does not converge is left out, and said to be
    try:
        accountant.compose(SelfComposedDpEvent(_event(multiplier, rate), steps))
        return float(accountant.get_epsilon(delta))
    finally:
        log.setLevel(level)


def _largest(multiplier: float) -> float:
    """The privacy loss that a step hardly ever exceeds."""
    return math.inf if multiplier < 1 / LARGEST else (0.5 / multiplier + TAIL) / multiplier


def _event(multiplier: float, rate: float) -> DpEvent:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    event: DpEvent = GaussianDpEvent(multiplier)
    return event if rate == 1 else PoissonSampledDpEvent(rate, event)


@lru_cache
def _accountant(multiplier: float, rate: float, steps: int, delta: float) -> PLDAccountant | None:
    """Of all subsampled steps, on a grid as fine as its ε needs; ``None`` where the loss is beyond `LARGEST`."""
    multiplier = min(multiplier, MOST_NOISE)
    largest = _largest(multiplier)
    if largest > LARGEST:
        return None
    coarsest = max(COARSEST, 1e-6 * rate * steps * largest, largest / LONG)
    found = _composed(multiplier, rate, steps, coarsest)
    known = found.get_epsilon(delta)
    for interval in (coarsest * finer for finer in FINER):
        if (largest + 5 * known) / interval > POINTS:
            break
        found = _composed(multiplier, rate, steps, interval)
        before, known = known, found.get_epsilon(delta)
        if before - known <= SETTLED * known:
            break
    return found


def _composed(multiplier: float, rate: float, steps: int, interval: float) -> PLDAccountant:
    from dp_accounting import SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=interval)
    accountant.compose(SelfComposedDpEvent(_event(multiplier, rate), steps))
    return accountant


def reconstruction_bound(
    multiplier: float, prior: float, *, rate: float = 1.0, steps: int = 1, delta: float = 1e-5
) -> float:
    """γ, the largest probability of reconstruction at prior probability κ.

    Args:
        multiplier: Noise multiplier z.
        prior: κ in 0..1.
        rate: Poisson sampling rate.
        steps: Updates that the attacker sees.
        delta: The grid of privacy losses is as fine as ε at this δ needs; γ does not depend on it otherwise.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior is {prior}, expected between 0 and 1")
    if rate == 1:
        shift = math.inf if multiplier == 0 else math.sqrt(steps) / multiplier
        return float(scipy.special.ndtr(scipy.special.ndtri(prior) + shift))
    accountant = _accountant(multiplier, rate, steps, delta)
    if accountant is None:  # all that protects is not to be drawn
        missed = (1 - rate) ** steps
        return 1 - missed + missed * prior
    tangents = EPSILONS[-math.log(prior) >= EPSILONS]  # beyond, they say no more than 1
    deltas = np.asarray(accountant.get_delta(tangents))
    return float(min(1.0, np.min(np.exp(tangents) * prior + deltas)))
