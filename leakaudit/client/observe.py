"""The client: the only place where an update is computed from private samples.

.. math:: g^* = \\nabla_\\theta \\frac{1}{B} \\sum_{i=1}^{B} \\ell(f_\\theta(x_i), y_i)

This is FedSGD, the update that an honest client shares after one step; with it go the BatchNorm statistics that the
protocol shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.defences.base import ClientStep, Defence, protected
from leakaudit.defences.claims import check_claim, check_undefended
from leakaudit.defences.evidence import Check, ErrorBound
from leakaudit.errors import AuditError
from leakaudit.observation import InputSpace, Observation, Protocol
from leakaudit.target.batchnorm import revealed, watched
from leakaudit.target.dropout import dropout_layers, injected_masks, record
from leakaudit.target.target import Target


class NoTraceError(AuditError):
    """The update is zero in every tensor: the samples behind it leave no trace."""


def observe(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    space: InputSpace,
    seed: int = 0,
    defences: Sequence[Defence] = (),
) -> Observation:
    """Compute the update that the client would share and wrap it with the declared knowledge.

    Args:
        target: The model. In train mode its dropout is on for the client alone, and off afterwards.
        batch: Private samples; ``len(batch)`` equals ``protocol.batch_size``.
        protocol: How the update is made.
        space: Normalisation of the inputs.
        seed: Of whatever the client draws: dropout masks, the noise of a defence.
        defences: What the client does to its update before it shares it, in this order. Those that change the model or
            the protocol have already done so to `target` and `protocol`.

    Returns:
        An observation without labels and masks, which the attacker infers.

    Raises:
        AuditError: The gradient is not finite.
        NoTraceError: It is zero everywhere.
    """
    return observe_step(target, batch, protocol, space, seed, defences)[0]


def observe_step(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    space: InputSpace,
    seed: int = 0,
    defences: Sequence[Defence] = (),
    recorded: Mapping[str, Tensor] | None = None,
) -> tuple[Observation, Mapping[str, Tensor]]:
    """As :func:`observe`, with the dropout masks that the client drew, by layer; for measuring an upper bound.

    A `recorded` update of a real client is taken as it is; of its masks and statistics nothing is known.
    """
    if recorded is not None:
        like = next(iter(target.parameters.values()))
        return Observation({n: g.to(like.device) for n, g in recorded.items()}, protocol, space), {}
    device = next(iter(target.parameters.values())).device
    inputs, labels = space.normalize(batch.images.to(device)), batch.labels.to(device)
    with ExitStack() as stack:
        for number, defence in enumerate(defences):
            stack.enter_context(defence.drawing(target, torch.Generator().manual_seed(seed + number)))
        masks = stack.enter_context(_client_dropout(target, protocol, seed))
        layers = stack.enter_context(watched(target))
        gradients = target.gradient(inputs, labels)
    update = {name: gradient.detach() for name, gradient in gradients.items()}
    if defences:
        step = ClientStep(target, inputs, labels, partial(_gradient_of_samples, target, masks))
        update = protected(update, step, defences, seed)
    broken = [name for name, gradient in update.items() if not bool(torch.isfinite(gradient).all())]
    if broken:
        raise AuditError(
            f"the update has NaN or infinite values in {broken[0]} ({len(broken)} of {len(update)} tensors)",
            "check the model's weights and the --mean and --std of its inputs",
        )
    if all(not bool(gradient.any()) for gradient in update.values()):
        raise NoTraceError(
            "the update is zero in every tensor: this batch leaves no trace in it",
            "the model may be saturated on these inputs; check --mean and --std, or draw other samples with --seed",
        )
    statistics = revealed(target, layers, protocol.shared_statistics) or None
    return Observation(update=update, protocol=protocol, space=space, batch_statistics=statistics), masks


def _gradient_of_samples(
    target: Target, masks: Mapping[str, Tensor], inputs: Tensor, labels: Tensor, positions: Sequence[int]
) -> Mapping[str, Tensor]:
    """The gradient over some samples of the batch, under the masks that they had."""
    with injected_masks(target.module, {name: mask[list(positions)] for name, mask in masks.items()}):
        return {name: g.detach() for name, g in target.gradient(inputs, labels).items()}


@contextmanager
def _client_dropout(target: Target, protocol: Protocol, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Dropout on while the client computes a train-mode update, with recorded masks from `seed`; off afterwards."""
    layers = dropout_layers(target.module).values()
    for layer in layers:
        layer.train(protocol.mode == "train")
    with record(target.module, torch.Generator().manual_seed(seed)) as masks:
        try:
            yield masks
        finally:
            for layer in layers:
                layer.eval()


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
        observation: From :func:`observe`, with the same seed and defences.
        seed: As there.
        defences: As there. With several, what each did to the update is not told apart, so none is checked.
    """
    acting = [d for d in defences if type(d).protect is not Defence.protect]
    raw = observe(target, batch, observation.protocol, observation.space, seed)
    found = []
    for defence in defences:
        checks = check_claim(defence, raw.update, observation.update) if acting == [defence] else []
        bound = ErrorBound(None, "only for a single defence of clipping and noise")
        if acting == [defence]:
            bound = _least_error(target, batch, raw, defence, seed)
        found.append(DefenceEvidence(tuple(checks), bound.mse, bound.reason))
    return found


def examine_claims(
    target: Target, batch: Batch, observation: Observation, seed: int, claims: Sequence[Defence]
) -> list[tuple[Check, ...]]:
    """Whether an observed update looks as if each claim had been done to it, whatever was; see :func:`examine`."""
    raw = observe(target, batch, observation.protocol, observation.space, seed)
    return [tuple(check_claim(claim, raw.update, observation.update)) for claim in claims]


def examine_recorded(target: Target, batch: Batch, observation: Observation, seed: int) -> tuple[Check, ...]:
    """Whether a recorded update is what an honest client without a defence would have shared; see :func:`examine`."""
    raw = observe(target, batch, observation.protocol, observation.space, seed)
    return tuple(check_undefended(raw.update, observation.update))


def _least_error(target: Target, batch: Batch, raw: Observation, defence: Defence, seed: int) -> ErrorBound:
    """The defence's bound on the error, in pixel units."""
    inputs = raw.space.normalize(batch.images).to(next(iter(raw.update.values())))
    generator = torch.Generator("cpu").manual_seed(seed)
    bound = defence.error_bound(target, raw, inputs, batch.labels.to(inputs.device), generator)
    if bound.mse is None:
        return bound
    return ErrorBound(bound.mse * sum(s * s for s in raw.space.std) / len(raw.space.std))
