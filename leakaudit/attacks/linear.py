"""First-layer reader: a fully connected layer on the input writes its samples into the update.

With ``z = W u + b`` and the error ``δ_i = ∂ℓ/∂z`` of sample i,

.. math:: ∂ℓ/∂W_j = \\sum_i δ_{ij} u_i, \\qquad ∂ℓ/∂b_j = \\sum_i δ_{ij}

One sample: ``u = ∂ℓ/∂W_j / ∂ℓ/∂b_j`` for any live unit j, whatever follows the layer (Phong et al. 2018; all rows are
used, by least squares). Without a bias, ``∂ℓ/∂W`` has rank one and its right singular vector is u up to scale and sign,
which the valid pixel range bounds and the regenerated update fixes.

A batch: a unit that a single sample activates gives the same ratio vector as every other such unit of that sample, so
rows are grouped by agreement of their ratios. ReLU makes such units, and dropout makes more of them.

A group is a sample only if confirmed: by its own error under some label, which must equal the bias gradient of the
group's rows; or, with unknown dropout masks, by agreement to floating-point precision of enough rows, after a
rehearsal on random images has shown that mixtures do not agree in this network (with one hidden layer and two classes
they do). A biased layer further in gives away its own input in the same way: reported where there is no first one.
Through known noise of standard deviation σ, one sample is the leading singular vector of ``[∂ℓ/∂W | ∂ℓ/∂b] = δ [uᵀ 1]``
(total least squares: the maximum of the likelihood), read only where its singular value is more than noise
(`leakaudit.attacks.reading.noise`); rows of a batch agree if they do up to the noise of their ratios. Of a pruned
update one sample is the matrix of rank one that agrees with the entries that survived. Rounding counts as noise.

A sample that the batch holds m times has m times its error, and is returned as often; a batch that is one sample,
several times, is read as that sample. Several layers that each read a slice of the input are put together
(`leakaudit.attacks.reading.one_sample`, `leakaudit.attacks.reading.agreement`). What they read may be a part of what
the model reads: then that part is claimed, and no more.

Fails for layers of several tokens, for smooth activations without dropout, and where every unit is shared.
Deviation from the first published form (one row, one ratio): least squares over the rows of a group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Generator

from leakaudit.attacks.base import JOINT, Attack
from leakaudit.attacks.reading.agreement import LinearSettings, read_batch
from leakaudit.attacks.reading.first_layer import Entry, find_linears
from leakaudit.attacks.reading.one_sample import needed, read_one
from leakaudit.attacks.reading.repeated import as_one, one_repeated, repeated
from leakaudit.errors import AuditError
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.recursion.graph import exposed
from leakaudit.recursion.plan import record
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

INNER_MISFIT = 1e-3
"""Largest misfit of an inner layer's update to one outer product at which its input counts as read; rounding to 16 bit
stays below."""


def first_layer_or_reason(target: Target, observation: Observation) -> Entry | NotApplicable:
    """The linear layer that reads the input, the first of several on parts of it, or why there is none to read."""
    entries = first_layers_or_reason(target, observation)
    return entries if isinstance(entries, NotApplicable) else entries[0]


def first_layers_or_reason(target: Target, observation: Observation) -> tuple[Entry, ...] | NotApplicable:
    """The linear layers that read the input or a part of it, as far as they are shared, or why there is none to read.

    Those with a bias come first.
    """
    entries = find_linears(target)
    if not entries:
        return NotApplicable("no fully connected layer reads the input directly (the first layer is something else)")
    shared = [entry for entry in entries if entry.weight in observation.update]
    if not shared:
        return NotApplicable(f"{entries[0].weight}, the first layer, is not part of the update")
    if target.batch_sizes is not None and observation.batch_size not in target.batch_sizes:
        return NotApplicable(f"the model file does not take batches of {observation.batch_size}")
    if observation.one_bit:
        return NotApplicable(f"only the signs of {shared[0].weight} are shared, which have neither ratios nor a rank")
    seen = [replace(e, bias=e.bias if e.bias in observation.update else None) for e in shared]
    return tuple(sorted(seen, key=lambda entry: entry.bias is None))


class LinearReader(Attack):
    """Reads the samples off the gradient of a fully connected first layer."""

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "First-layer reader"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA203"
    needs: ClassVar[str] = "a fully connected layer directly on the input; with a bias for batches"
    reference: ClassVar[str] = "Phong et al., Privacy-preserving deep learning via additively HE, IEEE TIFS 2018"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 5
    told: ClassVar[tuple[str, ...]] = ("local_epochs", "local_batch_size")  # what weights are rounded by
    reads: ClassVar[tuple[str, ...]] = JOINT
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = (
        "dp", "prune", "int", "accumulate", "clients", "share", "soteria", "precode", "dropout",
    )  # fmt: skip
    sum_of_gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, LinearSettings]] = {
        "quick": LinearSettings(),
        "standard": LinearSettings(),
        "paper": LinearSettings(),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a fully connected first layer, and its bias for more than one sample."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            return NotApplicable(entry.reason + _inner_reading(target, observation))
        if observation.batch_size > 1 and one_repeated(target, observation):
            return None
        if entry.bias is None and observation.batch_size > 1:
            return NotApplicable(f"{entry.weight} has no bias: rows of several samples cannot be told apart by ratios")
        if observation.pruned and observation.batch_size > 1:
            return NotApplicable(
                f"{entry.weight} is pruned: rows of several samples have no entries in common to compare"
            )
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Read one sample, or the samples of a batch that have units of their own."""
        entries = first_layers_or_reason(target, observation)
        if isinstance(entries, NotApplicable):
            raise ValueError("the first-layer reader needs a linear first layer: ask `applies` first")
        if observation.batch_size == 1:
            return read_one(target, observation, entries)
        if entries[0].bias is None or one_repeated(target, observation):
            return repeated(read_one(target, as_one(observation), entries), observation.batch_size)
        return read_batch(target, observation, needed([e for e in entries if e.bias is not None]), self.settings)


def _inner_reading(target: Target, observation: Observation) -> str:
    """What a biased layer further in gives away of one sample, read from the update; "" where there is none."""
    if observation.batch_size != 1 or not observation.protocol.one_gradient:
        return ""
    try:
        found = exposed(record(target, observation))
    except AuditError:
        return ""
    if found is None:
        return ""
    if found.misfit > INNER_MISFIT:
        return (
            f"; the update of layer {found.name}, further in, is not one sample's gradient (misfit {found.misfit:.0e})"
        )
    return (
        f"; layer {found.name}, further in, gives away its own input: {found.size} values, exact up to "
        f"{found.misfit:.0e} (R-GAP goes back from there where every layer before it has an inverse)"
    )
