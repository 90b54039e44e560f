"""What of an input a model's update depends on: which entries, how much, and whether there is a slope at all.

Entries. One that neither the logits nor the update depend on (outside a crop, between strides) cannot be recovered by
anybody, and is nothing to protect either. Derivatives are taken at several random inputs, and what has none is replaced
by other values, which must change no bit: a comparison has no slope and yet reads what it compares. The update counts
beside the logits, since a weight of zero hides an entry from the logits and not from its own gradient.

Change. With samples x and x' like real ones and the same labels,

.. math:: c = \\|g(x) - g(x')\\| / \\max(\\|g(x)\\|, \\|g(x')\\|)

is near one for most networks. Where it is hardly more than rounding, the update is the same whatever the sample: there
is little to find, and an attack that finds nothing shows nothing. Where there is no slope (trees turned into matrices,
steps), attacks that follow gradients cannot move, though the update may well tell samples apart.

Fails, by calling every entry read and giving no change, for inputs that are numbers of rows and models without a second
derivative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.target.parts import squared, squared_difference
from leakaudit.target.target import Target

PROBES = 4
"""Random inputs of each kind, like real samples and normal, at which derivatives are taken; chosen."""
HARDLY = 1e-3
"""Relative change of the update by another sample, below which it hardly depends on the sample; chosen: DLG's LeNet
with sigmoids, which leaks, has 2e-3, six fully connected layers with sigmoids 2e-5."""


@dataclass(frozen=True)
class Dependence:
    """How an update depends on the sample.

    Args:
        change: c, relative; ``None`` where it could not be computed.
        flat: Whether neither logits nor update have a slope anywhere.
    """

    change: float | None
    flat: bool

    @property
    def told(self) -> str:
        """That an update hardly depends on the sample, in a sentence; "" where it does."""
        if self.flat:
            return (
                "neither the logits nor the update have a slope in the input (steps, such as trees turned into "
                "matrices): attacks that follow gradients cannot move, and their failure shows nothing"
            )
        if self.change is not None and self.change < HARDLY:
            return (
                f"the update hardly depends on the sample: another one changes it by {self.change:.0e} of its norm, so "
                "attacks that find nothing show little"
            )
        return ""


def read_entries(target: Target) -> Tensor:
    """Entries (*shape) of one sample that the logits or the update depend on, as booleans on the CPU."""
    every = torch.ones(target.domain.shape, dtype=torch.bool)
    if target.domain.uncounted or not target.parameters:  # numbers of rows have no derivative
        return every
    try:
        with torch.random.fork_rng(devices=[]):  # active dropout draws
            found = _with_slope(target)
            return found if bool(found.all()) or _irrelevant(target, ~found) else every
    except RuntimeError:  # no second derivative, or no memory for it
        return every


def dependence(target: Target) -> Dependence:
    """How much the update depends on the sample."""
    if target.domain.uncounted or not target.parameters:
        return Dependence(None, flat=False)
    try:
        with torch.random.fork_rng(devices=[]):
            return Dependence(
                _change(*(_drawn_update(target, inputs) for inputs in _probes(target))),
                flat=not bool(_with_slope(target).any()),
            )
    except RuntimeError:
        return Dependence(None, flat=False)


def _probes(target: Target) -> tuple[Tensor, Tensor]:
    """Two batches like real samples."""
    generator = torch.Generator().manual_seed(0)
    size = PROBES if target.batch_sizes is None else max(target.batch_sizes)
    one, two = target.domain.look_alikes(2 * size, generator).chunk(2)
    return one.to(_like(target)), two.to(_like(target))


def _like(target: Target) -> Tensor:
    return next(t for t in target.parameters.values() if t.is_floating_point())


def _with_slope(target: Target) -> Tensor:
    """Entries with a derivative; the logits decide nearly always, so the update is asked only about what is left."""
    generator = torch.Generator().manual_seed(0)
    like, _ = _probes(target)
    probes = (like, target.domain.random_inputs(len(like), generator).to(like))
    found = torch.zeros(target.domain.shape, dtype=torch.bool)
    for outputs in (_logits, _update):
        for values in probes:
            inputs = values.clone().requires_grad_(True)
            weighed = [_weighed(tensor, generator) for tensor in outputs(target, inputs) if tensor.requires_grad]
            if weighed:
                (gradient,) = torch.autograd.grad(torch.stack(weighed).sum(), [inputs], materialize_grads=True)
                found |= (gradient != 0).any(0).cpu()
            if bool(found.all()):
                return found
    return found


def _irrelevant(target: Target, unread: Tensor) -> bool:
    """Whether other values of these entries change no bit of logits and update."""
    one, two = _probes(target)
    mixed = torch.where(unread.to(one.device), two, one)
    for outputs in (_logits, _update):
        with torch.random.fork_rng(devices=[]):
            before = outputs(target, one)
        after = outputs(target, mixed)
        if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            return False
    return True


def _logits(target: Target, inputs: Tensor) -> list[Tensor]:
    return [target.logits(inputs)]


def _update(target: Target, inputs: Tensor) -> list[Tensor]:
    labels = target.task.draw(len(inputs), torch.Generator().manual_seed(0)).to(inputs.device)
    return list(gradient_of(target, inputs, labels, create_graph=inputs.requires_grad).values())


def _drawn_update(target: Target, inputs: Tensor) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):  # the same masks for both
        return [tensor.detach() for tensor in _update(target, inputs)]


def _change(first: list[Tensor], second: list[Tensor]) -> float:
    """Norm of the difference of two updates over that of the larger one."""
    size = max(sum(map(squared, first)), sum(map(squared, second)))
    apart = sum(squared_difference(one, two) for one, two in zip(first, second, strict=True))
    return math.sqrt(apart / size) if size > 0 else 0.0


def _weighed(tensor: Tensor, generator: Generator) -> Tensor:
    """A random combination of all entries."""
    return (tensor * torch.randn(tensor.shape, generator=generator).to(tensor)).sum()
