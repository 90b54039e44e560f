"""What a defence costs: a few steps of training with the defended update, measured on samples kept apart.

This is the client's side, with private data: federated training from the weights at hand, one client per round, whose
gradient is taken with a learning rate, or whose difference of weights is added where clients train locally; with and
without the defence, on the same samples in the same order. It is no forecast of a whole training; it shows whether the
defended updates still point downhill. Tensors that are not shared are trained by the client itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from leakaudit.audit.environment import seed_of
from leakaudit.client.batch import Batch
from leakaudit.client.observe import NoTraceError, observe
from leakaudit.defences.base import Defence, defended_model, defended_protocol
from leakaudit.protocols.base import Protocol
from leakaudit.sweeps.request import TrainingPlan
from leakaudit.target.target import Target

EVALUATED_AT_ONCE = 64
"""Samples a forward pass; chosen for memory."""


@dataclass(frozen=True)
class Utility:
    """The model after training.

    Args:
        loss: Mean loss on the held-out samples.
        accuracy: Share of them that is classified right; ``None`` of a task where none is.
        samples: How many there are.
    """

    loss: float
    accuracy: float | None
    samples: int


def train(
    target: Target,
    samples: Batch,
    protocol: Protocol,
    defences: Sequence[Defence],
    plan: TrainingPlan,
    seed: int,
) -> Utility:
    """Train a copy of the model with defended updates and evaluate it; the given model is left as it is.

    Args:
        target: The undefended model.
        samples: Split into training and held-out samples by `seed`.
        protocol: How clients make an update, without the defence.
        defences: What clients do.
        plan: Steps, learning rate, split.
        seed: Of split, order and noise; the same for every defence.
    """
    kept, held_out = split(samples, plan.held_out, seed)
    own = replace(target, module=copy.deepcopy(target.module))
    own = defended_model(own, defences, seed_of(seed, "defence", 0))
    protocol = defended_protocol(protocol, defences)
    generator = torch.Generator().manual_seed(seed_of(seed, "order", 0))
    for step in range(plan.steps):
        chosen = torch.randint(len(kept), (protocol.batch_size,), generator=generator).tolist()
        _step(own, kept.subset(chosen), protocol, defences, plan.learning_rate, seed_of(seed, "train", step))
    return evaluate(own, held_out)


def split(samples: Batch, held_out: float, seed: int) -> tuple[Batch, Batch]:
    """Training and held-out samples; at least one of each."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    apart = min(len(samples) - 1, max(1, round(held_out * len(samples))))
    return samples.subset(order[apart:]), samples.subset(order[:apart])


def _step(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    defences: Sequence[Defence],
    learning_rate: float,
    seed: int,
) -> None:
    """One update of the model in place; what is not shared is updated by the undefended gradient.

    A batch that leaves no trace changes nothing.
    """
    try:
        shared = dict(observe(target, batch, protocol, target.domain, seed, defences).update)
    except NoTraceError:
        return
    if missing := set(target.parameters) - set(shared):
        own = observe(target, batch, protocol, target.domain, seed).update
        shared |= {name: own[name] for name in missing}
    moved = protocol.moved(shared, {name: tensor.detach() for name, tensor in target.parameters.items()})
    way = {name: -learning_rate * g for name, g in shared.items()} if moved is None else moved
    with torch.no_grad():
        for name, parameter in target.parameters.items():
            parameter += way[name]


@torch.no_grad()
def evaluate(target: Target, samples: Batch) -> Utility:
    """Loss and accuracy on all samples, in the mode that the model is in."""
    like = next(iter(target.parameters.values()))
    size = max(target.batch_sizes) if target.batch_sizes else EVALUATED_AT_ONCE
    losses: list[float] = []
    right: float | None = 0.0
    for begin in range(0, len(samples), size):
        part = samples.subset(list(range(begin, min(begin + size, len(samples)))))
        if target.batch_sizes and len(part) not in target.batch_sizes:
            continue
        inputs, labels = target.domain.encode(part.images.to(like)), part.labels.to(like.device)
        losses += [float(target.loss(inputs, labels))] * len(part)
        found = target.task.correct(target.logits(inputs), labels)
        right = None if found is None or right is None else right + float(found.sum())
    return Utility(sum(losses) / len(losses), None if right is None else right / len(losses), len(losses))
