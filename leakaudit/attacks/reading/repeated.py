"""A batch that is one sample, several times: to a closed form of one sample it is that sample.

The mean of B equal gradients is that gradient. Whether an update may be such a mean shows in a biased linear layer of
one token: ``∂ℓ/∂W = Σ_i δ_i u_iᵀ`` of distinct samples is no outer product of ``∂ℓ/∂b = Σ_i δ_i``. With one or two
classes it always is, so the last layer of such a model says nothing.
"""

from __future__ import annotations

from dataclasses import replace

from leakaudit.attacks.certificate import tolerance_of
from leakaudit.errors import AuditError
from leakaudit.observation import Observation
from leakaudit.reconstruction import Reconstruction, Snapshot
from leakaudit.recursion.last_layer import from_bias
from leakaudit.recursion.plan import record
from leakaudit.target.target import Target

TELLING_ROWS = 3
"""Outputs from which a linear layer tells one sample from several; by definition, as errors of two classes differ in
sign only."""


def as_one(observation: Observation) -> Observation:
    """The same update, as of a batch of one."""
    labels = None if observation.labels is None else observation.labels[:1]
    return replace(observation, protocol=observation.protocol.only(1), labels=labels, start=None)


def one_repeated(target: Target, observation: Observation) -> bool:
    """Whether the plain update of a batch may be that of a single sample; ``False`` where nothing tells."""
    if observation.batch_size == 1 or not observation.plain or observation.one_bit or observation.pruned:
        return False
    if not observation.protocol.one_gradient:  # the inputs of later layers change from step to step
        return False
    if target.batch_sizes is not None and 1 not in target.batch_sizes:
        return False
    try:
        planner = record(target, as_one(observation))
    except AuditError:
        return False
    for layer in planner.layers:
        delta = planner.update(layer.bias) if planner.has_trained_bias(layer) else None
        if delta is None or delta.numel() < TELLING_ROWS or not bool(delta.any()):
            continue
        gradient = planner.weight_gradient(layer)
        if gradient is not None:
            names = [name for name in (layer.weight, layer.bias) if name is not None and name in observation.update]
            return from_bias(gradient, delta.flatten()).residual <= tolerance_of(observation, *names)
    return False


def repeated(result: Reconstruction, size: int) -> Reconstruction:
    """The reconstruction of one sample as that of a batch which holds it `size` times."""
    note = f"The update is that of one sample: the batch holds it {size} times."

    def whole(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, inputs=snapshot.inputs.repeat_interleave(size, 0))

    return replace(
        result,
        inputs=result.inputs.repeat_interleave(size, 0),
        labels=result.labels.repeat_interleave(size, 0),
        read=None if result.read is None else result.read.repeat_interleave(size, 0),
        snapshots=tuple(whole(snapshot) for snapshot in result.snapshots),
        notes=(*result.notes, note),
    )
