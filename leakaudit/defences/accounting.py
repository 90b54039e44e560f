r"""Upper bounds for the Gaussian mechanism, and for nothing else.

* **ε(δ)** over all steps, by Google's ``dp-accounting`` (privacy loss distributions of the Poisson-subsampled Gaussian
  mechanism, one sample added or removed).
* **ReRo** (Balle et al. 2022, arXiv 2201.04845): an attacker who guesses a sample with probability κ before seeing the
  updates reconstructs it with probability at most γ after. For a mechanism with trade-off function f, γ = 1 − f(κ)
  (Kaissis et al. 2023, arXiv 2307.03928; the same value as the blow-up of Hayes et al. 2023, arXiv 2302.07225);
  for T full-batch steps of the Gaussian mechanism

  .. math:: \gamma = \Phi(\Phi^{-1}(\kappa) + \sqrt{T}/z)

  and with subsampling the smallest :math:`e^{\varepsilon}\kappa + \delta(\varepsilon)`, the same f by its tangents.

Both hold for whatever attack, and for every single sample. Fails silently if the noise that the client adds is not what
is declared; `leakaudit.defences.claims` compares.
"""

from __future__ import annotations

import math

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

from leakaudit.defences.evidence import Guarantee

EPSILONS = np.concatenate([[0.0], np.geomspace(1e-3, 100.0, 400)])
"""Tangents of the trade-off function that are tried; chosen: any set gives a bound, and ten times as many lower γ by
0.01 % at most for the three subsampled settings of `benchmarks/results/rero.md`."""
LARGEST, TAIL = 300.0, 8.0
"""Largest privacy loss of a step that is accounted, chosen for memory; how many standard deviations above its mean that
is taken to be, chosen: a Gaussian exceeds them with probability 6e-16."""


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
        reconstruction=reconstruction_bound(multiplier, prior, rate=rate, steps=steps),
        one_step=reconstruction_bound(multiplier, prior),
    )


def epsilon(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """ε of `steps` Gaussian mechanisms at a Poisson sampling rate; infinite where a sample's loss exceeds `LARGEST`."""
    accountant = _accountant(multiplier, rate, steps)
    return math.inf if accountant is None else float(accountant.get_epsilon(delta))


def _accountant(multiplier: float, rate: float, steps: int) -> PLDAccountant | None:
    """Of all steps, on a grid that its largest loss does not make too long; ``None`` where that is beyond `LARGEST`."""
    if rate == 1:  # steps of a Gaussian mechanism are one with less noise
        multiplier, steps = multiplier / math.sqrt(steps), 1
    largest = (0.5 / multiplier + TAIL) / multiplier
    if largest > LARGEST:
        return None
    event: DpEvent = GaussianDpEvent(multiplier)
    if rate < 1:
        event = PoissonSampledDpEvent(rate, event)
    accountant = PLDAccountant(value_discretization_interval=max(1e-3, 1e-6 * rate * steps * largest))
    accountant.compose(SelfComposedDpEvent(event, steps))
    return accountant


def reconstruction_bound(multiplier: float, prior: float, *, rate: float = 1.0, steps: int = 1) -> float:
    """γ, the largest probability of reconstruction at prior probability κ.

    Args:
        multiplier: Noise multiplier z.
        prior: κ in 0..1.
        rate: Poisson sampling rate.
        steps: Updates that the attacker sees.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior is {prior}, expected between 0 and 1")
    if rate == 1:
        return float(norm.cdf(norm.ppf(prior) + math.sqrt(steps) / multiplier))
    accountant = _accountant(multiplier, rate, steps)
    if accountant is None:  # all that protects is not to be drawn
        missed = (1 - rate) ** steps
        return 1 - missed + missed * prior
    deltas = np.array([accountant.get_delta(float(e)) for e in EPSILONS])
    return float(min(1.0, np.min(np.exp(EPSILONS) * prior + deltas)))
