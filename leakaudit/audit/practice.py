"""What an audit knows of the client's defences in use, for what deployed code does wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from leakaudit.audit.environment import seed_of
from leakaudit.audit.intake import Material
from leakaudit.audit.request import Request
from leakaudit.audit.victim import Victim
from leakaudit.client.examine import sent_updates
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.defences.base import Defence, acts
from leakaudit.defences.misuse import Practice, Quiet
from leakaudit.defences.units import sent
from leakaudit.target.target import Target


def practice_of(
    target: Target, victim: Victim, request: Request, material: Material, defences: Sequence[Defence]
) -> Practice:
    """What is known of the client of the first victim.

    The updates themselves are given where a single defence made the shared one of the undefended, or a real client did.
    """
    target, protocol = victim.model or target, victim.observation.protocol
    rounds = material.recorded.audited
    recorded = rounds[victim.number].update if rounds else None
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    single = sum(map(acts, defences)) <= 1
    raw: Mapping[str, Tensor] | None = None
    shared: Mapping[str, Tensor] | None = None
    quiet: Callable[[Defence], Quiet | None] = _unknown
    if not victim.batch.known:
        shared = sent(protocol, victim.observation.update, before)
    elif single or recorded is not None:
        seed = seed_of(request.seed, "client", victim.number)
        raw, shared, quiet = sent_updates(
            *(target, victim.batch, victim.observation, seed, defences), recorded=recorded is not None
        )
    return Practice(
        protocol=protocol,
        raw=raw if single else None,
        shared=shared,
        quiet=quiet,
        before=before,
        buffers=_moved(recorded, target),
        kind="" if recorded is None else recorded.kind,
        round=None if recorded is None else recorded.round,
        entries=sum(tensor.numel() for tensor in target.parameters.values()),
        kept=tuple(dict(target.module.named_buffers())),
        scalars=single_numbers(target),
        clients=max((len(defence.members) for defence in defences), default=1) or 1,
    )


def single_numbers(target: Target) -> tuple[str, ...]:
    """Trainable tensors without an axis, which filters of frameworks pass as they are."""
    return tuple(name for name, tensor in target.parameters.items() if tensor.dim() == 0)


def _unknown(defence: Defence) -> None:
    """What it makes of an update before its noise, where nobody knows the update."""


def _moved(recorded: RecordedUpdate | None, target: Target) -> Mapping[str, Tensor]:
    """Buffers of a recorded update, as differences where it holds weights; others than buffers are left out."""
    if recorded is None:
        return {}
    own = dict(target.module.named_buffers())
    sent = {name: tensor.detach().cpu().double() for name, tensor in recorded.buffers.items() if name in own}
    if recorded.kind != "weights":
        return sent
    return {name: tensor - own[name].detach().cpu().double() for name, tensor in sent.items()}
