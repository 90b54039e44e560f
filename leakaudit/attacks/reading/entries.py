"""Which entries of an input a model reads at all: a centre crop, a stride, a slice leave some out.

An entry that neither the logits nor the update depend on cannot be recovered by anybody, and is nothing to protect
either. Both derivatives are taken at several random inputs; an entry is read where one of them is not exactly zero.
The update counts beside the logits, since a weight of zero hides an entry from the logits and not from its gradient.

Fails, by calling every entry read, for inputs that are no real numbers and models without a second derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakaudit.attacks.reading.first_layer import like
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target

PROBES = 8
"""Random inputs at which derivatives are taken, at least; chosen: half of them like real samples, half normal."""


def read_entries(target: Target) -> Tensor:
    """Entries (*shape) of one sample that the logits or the update depend on, as booleans on the CPU."""
    shape = target.domain.shape
    if target.domain.uncounted:  # numbers of rows have no derivative
        return torch.ones(shape, dtype=torch.bool)
    try:
        with torch.random.fork_rng(devices=[]):  # active dropout draws
            return _dependent(target)
    except RuntimeError:  # no second derivative, or no memory for it
        return torch.ones(shape, dtype=torch.bool)


def _dependent(target: Target) -> Tensor:
    """The logits decide nearly always, so the update, whose derivative is dear, is asked only about what is left."""
    generator = torch.Generator().manual_seed(0)
    size = PROBES // 2 if target.batch_sizes is None else max(target.batch_sizes)
    probes = (target.domain.look_alikes(size, generator), target.domain.random_inputs(size, generator))
    found = torch.zeros(target.domain.shape, dtype=torch.bool)
    for outputs in (_logits, _update):
        for values in probes:
            inputs = values.to(like(target)).requires_grad_(True)
            weighed = sum(_weighed(tensor, generator) for tensor in outputs(target, inputs, generator))
            assert isinstance(weighed, Tensor)
            (gradient,) = torch.autograd.grad(weighed, [inputs], materialize_grads=True)
            found |= (gradient != 0).any(0).cpu()
            if bool(found.all()):
                return found
    return found


def _logits(target: Target, inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
    return [target.logits(inputs)]


def _update(target: Target, inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
    labels = target.task.draw(len(inputs), generator).to(inputs.device)
    update = FedSGD(len(inputs), target.mode).update(target, Play(inputs, labels), create_graph=True)
    return [tensor for tensor in update.values() if tensor.requires_grad]


def _weighed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A random combination of all entries."""
    return (tensor * torch.randn(tensor.shape, generator=generator).to(tensor)).sum()
