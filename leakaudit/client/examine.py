"""The auditor: what somebody who has the private batch can check about an update that was shared.

The undefended update of the same batch is computed once more by `leakaudit.client.observe`, and compared with the one
that an attacker sees; for clipping with noise there is a bound on the error that it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.observe import Work, work_of
from leakaudit.defences.base import Defence
from leakaudit.defences.claims import check_claim, check_decay, check_undefended
from leakaudit.defences.evidence import Check, ErrorBound
from leakaudit.defences.misuse import Quiet
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.target import Target

SEVERAL = "what each of several defences did to the update is not told apart"
UNKNOWN_DRAWS = (
    "what the client drew or chose (dropout masks, the order of samples, settings of its training) is not known, so "
    "its update cannot be computed once more"
)
UNKNOWN_SAMPLES = "nobody has the samples behind the update, so it cannot be computed once more"


@dataclass(frozen=True)
class DefenceEvidence:
    """What the auditor, who has the private batch, can say about one defence.

    Args:
        checks: Whether the shared update looks as claimed.
        mse: Least mean squared error of unbiased attackers from one update, in pixel units, or ``None``.
        mse_reason: Why not.
        unchecked: Why the update was not held against the defence, or "".
    """

    checks: tuple[Check, ...]
    mse: float | None = None
    mse_reason: str = ""
    unchecked: str = ""


def examine(
    target: Target,
    batch: Batch,
    observation: Observation,
    seed: int,
    defences: Sequence[Defence],
    *,
    recorded: bool = False,
) -> list[DefenceEvidence]:
    """Compare an observed update with the undefended one of the same batch, and bound what noise leaves.

    Args:
        target: The model that the client trains.
        batch: The private samples behind the observation.
        observation: From :func:`leakaudit.client.observe.observe`, with the same seed and defences.
        seed: As there.
        defences: As there. With several, what each did to the update is not told apart, so none is checked.
        recorded: Whether a real client made the update, which drew what nobody knows.
    """
    acting = [d for d in defences if type(d).protect is not Defence.protect]
    work = _again(target, batch, observation, seed, defences, recorded=recorded)
    found = []
    for defence in defences:
        if acting != [defence]:
            bound = ErrorBound(None, "only for a single defence of clipping and noise")
            found.append(DefenceEvidence((), bound.mse, bound.reason, SEVERAL if defence in acting else ""))
            continue
        checks = check_claim(defence, work.step, *_sent(work, observation))
        bound = _least_error(target, batch, replace(observation, update=work.update), defence, seed)
        unchecked = defence.unchecked(work.step) or ("" if work.step.replayed else UNKNOWN_DRAWS)
        found.append(DefenceEvidence(tuple(checks), bound.mse, bound.reason, unchecked))
    return found


def examine_claims(
    target: Target,
    batch: Batch,
    observation: Observation,
    seed: int,
    claims: Sequence[Defence],
    defences: Sequence[Defence] = (),
    *,
    recorded: bool = False,
) -> list[tuple[Check, ...]]:
    """Whether an observed update looks as if each claim had been done to it, whatever was; see :func:`examine`."""
    work = _again(target, batch, observation, seed, defences, recorded=recorded)
    return [tuple(check_claim(claim, work.step, *_sent(work, observation))) for claim in claims]


def sent_updates(
    target: Target, batch: Batch, observation: Observation, seed: int, defences: Sequence[Defence], *, recorded: bool
) -> tuple[Mapping[str, Tensor] | None, Mapping[str, Tensor], Callable[[Defence], Quiet | None]]:
    """The undefended and the shared update as they are sent, and what a defence makes of the first before its noise.

    The first is ``None`` where a real client drew what nobody knows; see :func:`examine`.
    """
    work = _again(target, batch, observation, seed, defences, recorded=recorded)
    raw, shared = _sent(work, observation)
    if not work.step.replayed:
        return None, shared, lambda _: None
    return raw, shared, lambda defence: defence.quiet({name: raw[name] for name in shared}, work.step)


def _sent(work: Work, observation: Observation) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """The undefended and the shared update as a client sends them: differences of weights after local steps."""
    return work.step.sent(work.update), work.step.sent(observation.update)


def examine_recorded(target: Target, batch: Batch, observation: Observation, seed: int) -> tuple[Check, ...]:
    """Whether a recorded update is what an honest client without a defence would have shared; see :func:`examine`.

    Under dropout masks or in an order that nobody knows, an honest client's differs too, so it is told and not judged.
    """
    work = _again(target, batch, observation, seed, (), recorded=True)
    if not work.step.replayed:
        return tuple(check_undefended(work.update, observation.update, judged=False))
    weights = {name: tensor.detach() for name, tensor in target.parameters.items()}
    decay = check_decay(work.update, observation.update, weights)
    return (*check_undefended(work.update, observation.update), *decay)


def _again(
    target: Target, batch: Batch, observation: Observation, seed: int, defences: Sequence[Defence], *, recorded: bool
) -> Work:
    """The client's work once more; of a real client's not what it drew."""
    work = work_of(target, batch, observation.protocol, observation.domain, seed, defences)
    shuffled = observation.protocol.order(torch.Generator(), len(batch)) is not None
    drew = (
        shuffled
        or bool(observation.protocol.withheld)
        or any(work.masks)
        or any(type(d).drawing is not Defence.drawing for d in defences)
    )
    return replace(work, step=replace(work.step, replayed=not (recorded and drew)))


def _least_error(target: Target, batch: Batch, raw: Observation, defence: Defence, seed: int) -> ErrorBound:
    """The defence's bound on the error, in units of the values."""
    inputs = raw.domain.encode(batch.images).to(next(iter(raw.update.values())))
    generator = torch.Generator("cpu").manual_seed(seed)
    unit = raw.domain.squared_unit()
    if unit is None:
        return ErrorBound(None, f"a squared error means nothing for {raw.domain.takes}")
    bound = defence.error_bound(target, raw, Play(inputs, batch.labels.to(inputs.device)), generator)
    return bound if bound.mse is None else ErrorBound(bound.mse * unit)
