"""The auditor: what somebody who has the private batch can check about an update that was shared.

The undefended update of the same batch is computed once more by `leakaudit.client.observe`, and compared with the one
that an attacker sees; for clipping with noise there is a bound on the error that it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.base import Defence
from leakaudit.defences.claims import Check, check_claim, check_undefended
from leakaudit.defences.gaussian import GaussianMechanism
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.risk.fisher import fisher_bound
from leakaudit.target.target import Target


@dataclass(frozen=True)
class DefenceEvidence:
    """What the auditor, who has the private batch, can say about one defence.

    Args:
        checks: Whether the shared update looks as claimed.
        mse: Least mean squared error of unbiased attackers from one update, in pixel units, or ``None``.
        mse_reason: Why not.
    """

    checks: tuple[Check, ...]
    mse: float | None = None
    mse_reason: str = ""


def examine(
    target: Target, batch: Batch, observation: Observation, seed: int, defences: Sequence[Defence]
) -> list[DefenceEvidence]:
    """Compare an observed update with the undefended one of the same batch, and bound what noise leaves.

    Args:
        target: The model that the client trains.
        batch: The private samples behind the observation.
        observation: From :func:`leakaudit.client.observe.observe`, with the same seed and defences.
        seed: As there.
        defences: As there. With several, what each did to the update is not told apart, so none is checked.
    """
    acting = [d for d in defences if type(d).protect is not Defence.protect]
    raw = observe(target, batch, observation.protocol, observation.domain, seed)
    found = []
    for defence in defences:
        checks = check_claim(defence, raw.update, observation.update) if acting == [defence] else []
        mse, reason = None, "only for a single defence of clipping and noise"
        if isinstance(defence, GaussianMechanism) and defence.accounted and acting == [defence]:
            mse, reason = _least_error(target, batch, raw, defence, seed)
        found.append(DefenceEvidence(tuple(checks), mse, reason))
    return found


def examine_claims(
    target: Target, batch: Batch, observation: Observation, seed: int, claims: Sequence[Defence]
) -> list[tuple[Check, ...]]:
    """Whether an observed update looks as if each claim had been done to it, whatever was; see :func:`examine`."""
    raw = observe(target, batch, observation.protocol, observation.domain, seed)
    return [tuple(check_claim(claim, raw.update, observation.update)) for claim in claims]


def examine_recorded(target: Target, batch: Batch, observation: Observation, seed: int) -> tuple[Check, ...]:
    """Whether a recorded update is what an honest client without a defence would have shared; see :func:`examine`."""
    raw = observe(target, batch, observation.protocol, observation.domain, seed)
    return tuple(check_undefended(raw.update, observation.update))


def _least_error(
    target: Target, batch: Batch, raw: Observation, mechanism: GaussianMechanism, seed: int
) -> tuple[float | None, str]:
    """The Fisher bound in units of the values; for one sample, whose clipping is a smooth function of it."""
    if len(batch) > 1:
        return None, "computed for one sample per update only"
    unit = raw.domain.squared_unit()
    if unit is None:
        return None, f"a squared error means nothing for {raw.domain.takes}"
    _, seen = mechanism.adapt(target, raw)
    inputs = raw.domain.encode(batch.images).to(next(iter(raw.update.values())))
    labels = batch.labels.to(inputs.device)
    generator = torch.Generator("cpu").manual_seed(seed)
    bound = fisher_bound(target, seen, Play(inputs, labels), mechanism.noise, generator)
    return bound.mse * unit, ""
