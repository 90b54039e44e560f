"""Whether a shared update looks like the defence that its client believes in.

A filter that is configured but not applied, applied to the wrong tensors, or applied before a step that undoes it, is
the most common way for a defence to fail. For the auditor, who computes the undefended update too, that is plain to
see: norm, sparsity, number of distinct values, and what is left after subtracting the undefended update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leakaudit.defences.base import Defence
from leakaudit.defences.gaussian import GaussianMechanism, clipped
from leakaudit.defences.pruning import Pruning
from leakaudit.defences.quantisation import IntegerQuantisation, SignQuantisation
from leakaudit.defences.sharing import PartialSharing

STANDARD_ERRORS = 4.0
"""By how many standard errors a measured noise level may differ from the claimed one; chosen: 6 honest updates in
100,000 do."""
SAME, SAME_NORM = 0.999, 0.01
"""Least cosine and largest relative difference of norms of two computations of the same update; chosen, not measured.
"""
Update = Mapping[str, Tensor]


@dataclass(frozen=True)
class Check:
    """One property of a shared update.

    Args:
        what: The property.
        expected: By the claim.
        measured: On the update.
        holds: Whether they agree.
    """

    what: str
    expected: str
    measured: str
    holds: bool


def check_claim(claim: Defence, raw: Update, shared: Update) -> list[Check]:
    """Compare a shared update with what a defence should make of the undefended one.

    Args:
        claim: What the client believes is applied, and nothing else.
        raw: The undefended update.
        shared: What the client shares.
    """
    for kind, function in _CHECKS.items():
        if isinstance(claim, kind):
            return [*function(claim, raw, shared), _resemblance(raw, shared)]
    return [_resemblance(raw, shared)]


def check_undefended(raw: Update, shared: Update) -> list[Check]:
    """Compare a recorded update with the one computed from the samples that are said to be behind it."""
    names = [name for name in raw if name in shared]
    ratio = float(_flat(shared, names).norm() / _flat(raw, names).norm().clamp_min(1e-300))
    found = [
        Check("shared tensors", str(len(raw)), str(len(names)), len(names) == len(raw)),
        Check("norm over that of the computed update", "1", f"{ratio:.4g}", abs(ratio - 1) <= SAME_NORM),
    ]
    cosine = _cosine(raw, shared)
    return [*found, Check("cosine with the computed update", f"at least {SAME:g}", f"{cosine:.4f}", cosine >= SAME)]


def _resemblance(raw: Update, shared: Update) -> Check:
    """A defence that changes the update leaves a cosine below 1; stated, not judged."""
    return Check("cosine with the undefended update", "-", f"{_cosine(raw, shared):.4f}", True)


def _cosine(raw: Update, shared: Update) -> float:
    """Over the tensors that both have."""
    names = [name for name in raw if name in shared]
    a, b = _flat(raw, names), _flat(shared, names)
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))


def _gaussian(claim: GaussianMechanism, raw: Update, shared: Update) -> list[Check]:
    names = list(shared)
    bounded = clipped({n: raw[n] for n in names}, claim.clip) if claim.clip else raw
    rest = _flat(shared, names) - _flat(bounded, names)
    checks = []
    if claim.noise:
        measured, error = float(rest.std()), claim.noise / math.sqrt(2 * rest.numel())
        # with several samples clipped one by one the residual also holds the difference of the clippings
        slack = STANDARD_ERRORS * error + (0.0 if not claim.clip else 0.02 * claim.noise)
        holds = abs(measured - claim.noise) <= slack
        checks.append(Check("standard deviation of the noise", f"{claim.noise:g}", f"{measured:g}", holds))
    elif claim.clip:
        norm = float(_flat(shared, names).norm())
        checks.append(Check("norm", f"at most {claim.clip:g}", f"{norm:g}", norm <= claim.clip * 1.001))
    return checks


def _pruning(claim: Pruning, raw: Update, shared: Update) -> list[Check]:
    flat = _flat(shared, list(shared))
    zeros = float((flat == 0).double().mean())
    floor = sum(g.numel() - max(1, round(g.numel() * (1 - claim.prune))) for g in shared.values()) / flat.numel()
    rounding = len(shared) / flat.numel()  # an entry per tensor
    found = [Check("share of zero entries", f"at least {floor:.4f}", f"{zeros:.4f}", zeros >= floor - rounding)]
    kept = flat != 0
    same = float((flat[kept] - _flat(raw, list(shared))[kept]).norm() / flat.norm().clamp_min(1e-300))
    found.append(Check("difference of the surviving entries", "0", f"{same:.1e}", same < 1e-5))
    return found


def _sign(claim: SignQuantisation, raw: Update, shared: Update) -> list[Check]:
    most = max(len(torch.unique(g[g != 0].abs())) for g in shared.values())
    return [Check("distinct magnitudes in a tensor", "at most 1", str(most), most <= 1)]


def _integer(claim: IntegerQuantisation, raw: Update, shared: Update) -> list[Check]:
    most = max(len(torch.unique(g)) for g in shared.values())
    return [Check("distinct values in a tensor", f"at most {2**claim.bits}", str(most), most <= 2**claim.bits)]


def _sharing(claim: PartialSharing, raw: Update, shared: Update) -> list[Check]:
    expected = [name for name in raw if claim.matches(name)]
    return [Check("shared tensors", str(len(expected)), str(len(shared)), set(expected) == set(shared))]


_CHECKS: dict[type[Defence], Callable[..., list[Check]]] = {
    GaussianMechanism: _gaussian,
    Pruning: _pruning,
    SignQuantisation: _sign,
    IntegerQuantisation: _integer,
    PartialSharing: _sharing,
}


def _flat(update: Update, names: list[str]) -> Tensor:
    return torch.cat([update[name].double().flatten() for name in names])
