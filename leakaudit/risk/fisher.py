r"""Fisher-information bound: how well any unbiased attacker can do against Gaussian noise.

For a shared update :math:`\tilde g = \Phi(x) + N(0, \sigma^2 I)` the Fisher information of x is
:math:`I(x) = J^T J / \sigma^2` with :math:`J = \partial\Phi/\partial x`, and for every unbiased estimator

.. math:: \frac{1}{n} E\|\hat x - x\|^2 \;\ge\; \frac{1}{n} \operatorname{tr} I^{-1} \;\ge\;
   \frac{n}{\operatorname{tr} I} = \frac{n \sigma^2}{\|J\|_F^2}

(Hannun et al. 2021, arXiv 2102.11673; Guo et al. 2022, arXiv 2201.12383, eq. 4; the second step is AM-HM). The
Frobenius norm is estimated matrix-free by Hutchinson's method, :math:`E\|Jv\|^2` over random signs v, one forward-over-
reverse product each; with few unknowns it is computed column by column.

It is a bound for *unbiased* attackers: one with a good prior is biased and can be below it. Read it as the error that
the update alone forces, before any prior knowledge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.risk.update_jacobian import UpdateJacobian
from leakaudit.target.target import Target

PROBES = 32
"""Random signs of Hutchinson's estimate; chosen, its standard error is reported."""
EXACT_UNKNOWNS = 256
"""Largest number of unknowns whose Jacobian is formed column by column; chosen for time."""


@dataclass(frozen=True)
class FisherBound:
    """A lower bound on the mean squared error of unbiased attackers.

    Args:
        mse: Per entry of the input, in squared units of the normalised input.
        standard_error: Of the estimate, relative; 0 where it was computed exactly.
        unknowns: n.
        sigma: Standard deviation of the noise on every entry.
    """

    mse: float
    standard_error: float
    unknowns: int
    sigma: float


def fisher_bound(
    target: Target, observation: Observation, play: Play, sigma: float, generator: Generator
) -> FisherBound:
    """The bound at one point.

    Args:
        target: The model.
        observation: Which tensors are shared, and through which channel (clipping).
        play: Of the client, at whose inputs (B, C, H, W) the bound is taken.
        sigma: Standard deviation of the noise, above 0.
        generator: CPU generator of the probes.
    """
    jacobian = UpdateJacobian(target, observation, play)
    return trace_bound(
        lambda z: torch.cat([part.reshape(-1) for part in jacobian.times(z)]), play.inputs, sigma, generator
    )


def trace_bound(times: Callable[[Tensor], Tensor], inputs: Tensor, sigma: float, generator: Generator) -> FisherBound:
    """The bound for any Jacobian given as a product with a direction shaped as the inputs."""
    if sigma <= 0:
        raise ValueError(f"sigma is {sigma}, expected more than 0")
    unknowns = inputs.numel()
    if unknowns <= EXACT_UNKNOWNS:
        columns = torch.eye(unknowns, dtype=inputs.dtype, device=inputs.device).view(unknowns, *inputs.shape)
        total, error = sum(float(times(c).double().square().sum()) for c in columns), 0.0
    else:
        signs = [torch.randint(0, 2, inputs.shape, generator=generator) * 2 - 1 for _ in range(PROBES)]
        values = torch.tensor([float(times(s.to(inputs)).double().square().sum()) for s in signs])
        total, error = float(values.mean()), float(values.std() / values.mean() / math.sqrt(PROBES))
    mse = unknowns * sigma**2 / total if total > 0 else math.inf
    return FisherBound(mse, error, unknowns, sigma)
