"""The client: the only place where an update is computed from private samples.

An honest client decides on a play of its batch (order, dropout masks), makes the update that the protocol asks for,
defends it, and shares it with the BatchNorm statistics that the protocol shares. An update that a real client sent is
read by the same protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.defences.base import ClientStep, Defence, protected
from leakaudit.domains.base import Domain
from leakaudit.errors import AuditError
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play, Protocol, Update
from leakaudit.target.batchnorm import revealed, watched
from leakaudit.target.dropout import Masks, Steps, dropout_layers, record
from leakaudit.target.target import Target


class NoTraceError(AuditError):
    """The update is zero in every tensor: the samples behind it leave no trace."""


def observe(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    domain: Domain,
    seed: int = 0,
    defences: Sequence[Defence] = (),
) -> Observation:
    """Compute the update that the client would share and wrap it with the declared knowledge.

    Args:
        target: The model. In train mode its dropout is on for the client alone, and off afterwards.
        batch: Private samples; ``len(batch)`` equals ``protocol.batch_size``.
        protocol: How the update is made.
        domain: What a sample is; its normalisation is the client's.
        seed: Of whatever the client draws: dropout masks, the noise of a defence.
        defences: What the client does to its update before it shares it, in this order. Those that change the model or
            the protocol have already done so to `target` and `protocol`.

    Returns:
        An observation without labels and masks, which the attacker infers.

    Raises:
        AuditError: The gradient is not finite.
        NoTraceError: It is zero everywhere.
    """
    return observe_step(target, batch, protocol, domain, seed, defences)[0]


def observe_step(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    domain: Domain,
    seed: int = 0,
    defences: Sequence[Defence] = (),
    recorded: Mapping[str, Tensor] | None = None,
) -> tuple[Observation, Steps]:
    """As :func:`observe`, with the dropout masks that the client drew, by step and layer; for measuring an upper bound.

    A `recorded` update of a real client is taken as it was sent; of its masks and statistics nothing is known.
    """
    if recorded is not None:
        return Observation(protocol.from_shared(recorded, target.parameters), protocol, domain), ()
    device = next(iter(target.parameters.values())).device
    order = protocol.order(torch.Generator().manual_seed(seed), len(batch))
    play = Play(domain.encode(batch.images.to(device)), batch.labels.to(device), order)
    with ExitStack() as stack:
        for number, defence in enumerate(defences):
            stack.enter_context(defence.drawing(target, torch.Generator().manual_seed(seed + number)))
        drawn = stack.enter_context(_client_dropout(target, protocol, seed))
        layers = stack.enter_context(watched(target))
        made = protocol.update(target, play)
    update = {name: tensor.detach() for name, tensor in made.items()}
    masks: Steps = tuple(drawn) if any(drawn) else ()
    if defences:
        update = protected(update, _step(target, protocol, replace(play, masks=masks)), defences, seed)
    _refuse_broken(update)
    # running statistics after several steps mix those of their batches
    statistics = revealed(target, layers, protocol.shared_statistics) if protocol.steps == 1 else None
    statistics = statistics or None
    return Observation(update=update, protocol=protocol, domain=domain, batch_statistics=statistics), masks


def _refuse_broken(update: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in update.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise AuditError(
            f"the update has NaN or infinite values in {broken[0]} ({len(broken)} of {len(update)} tensors)",
            "check the model's weights and the --mean and --std of its inputs",
        )
    if all(not bool(tensor.any()) for tensor in update.values()):
        raise NoTraceError(
            "the update is zero in every tensor: this batch leaves no trace in it",
            "the model may be saturated on these inputs; check --mean and --std, or draw other samples with --seed",
        )


def _step(target: Target, protocol: Protocol, play: Play) -> ClientStep:
    """What the client has in hand; the update of a sample is taken under the masks that it had.

    Raises:
        AuditError: When asked for a sample's own update, of which there is none after several local steps.
    """

    def alone(position: int) -> Update:
        if protocol.steps > 1:
            raise AuditError(
                f"a defence acts on each sample's gradient, the update is of {protocol.steps} local steps",
                "clip per update (per=update), or audit one gradient",
            )
        return {name: g.detach() for name, g in protocol.alone(target, play, position).items()}

    return ClientStep(target, play.inputs, play.labels, alone)


@contextmanager
def _client_dropout(target: Target, protocol: Protocol, seed: int) -> Iterator[Sequence[Masks]]:
    """Dropout on while the client computes a train-mode update, with masks from `seed` recorded by step; then off."""
    layers = dropout_layers(target.module).values()
    for layer in layers:
        layer.train(protocol.mode == "train")
    with record(target.module, torch.Generator().manual_seed(seed)) as masks:
        try:
            yield masks
        finally:
            for layer in layers:
                layer.eval()
