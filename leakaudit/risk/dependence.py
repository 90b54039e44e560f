"""What of an input a model's update depends on: which entries, how much, and whether there is a slope at all.

Entries. One that neither the logits nor the update depend on (outside a crop, between strides) cannot be recovered by
anybody, and is nothing to protect either. Derivatives are taken at several random inputs, and what has none is replaced
by other values, which must change no bit: a comparison has no slope and yet reads what it compares. The update counts
beside the logits, since a weight of zero hides an entry from the logits and not from its own gradient.

Change. With samples x and x' like real ones and the same labels,

.. math:: c = \\|g(x) - g(x')\\| / \\max(\\|g(x)\\|, \\|g(x')\\|)

is near one for most networks. One pair of samples tells that; where it is less, g is the mean over several. Where it
is hardly more than rounding, the update is the same whatever the sample: there is little to find, and an attack that
finds nothing shows nothing. Where there is no slope (trees turned into matrices, steps), attacks that follow gradients
cannot move, though the update may well tell samples apart.

Memory. A sample goes through alone where samples do not influence each other, and of large models the gradients of
some tensors at a time are held (`leakaudit.target.parts.groups`).

Fails, by calling every entry read and giving no change, for inputs that are numbers of rows and models without a second
derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.target.parts import HELD, groups, only, squared, squared_difference
from leakaudit.target.pullback import pullback
from leakaudit.target.target import Target

PROBES = 4
"""Random inputs of each kind, like real samples and normal, at which derivatives are taken; chosen."""
HARDLY = 1e-3
"""Relative change of the update by another sample, below which it hardly depends on the sample; chosen: DLG's LeNet
with sigmoids, which leaks, has 2e-3, six fully connected layers with sigmoids 2e-5."""
SURELY = 0.1
"""Relative change by one pair of samples at which the mean over `PROBES` of them would not be hardly any; chosen, a
hundred times `HARDLY`."""
TWICE = 128 << 20
"""Bytes of an update whose derivative in the input is taken at once; chosen: as much again is held for its weights."""


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
            return Dependence(_change(target), flat=not bool(_with_slope(target, enough=torch.any).any()))
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


def _single(target: Target) -> bool:
    """Whether samples do not influence each other, so that one can be asked by itself."""
    parts = list(target.module.modules())
    of_batch = any(part.training or getattr(part, "batch_statistics", None) for part in parts)
    return target.batch_sizes is None and not of_batch and target.task.own is None


def _pieces(target: Target, inputs: Tensor) -> tuple[Tensor, ...]:
    """A batch (B, *shape), one by one where that is the same."""
    return torch.split(inputs, 1) if _single(target) else (inputs,)


def _with_slope(target: Target, enough: Callable[[Tensor], Tensor] = torch.all) -> Tensor:
    """Entries with a derivative, until that is enough.

    The logits decide nearly always. The update is asked about what is left, and at once where the logits have no slope
    at all, as in front of a last layer that begins at zero.
    """
    generator = torch.Generator().manual_seed(0)
    like, _ = _probes(target)
    random = target.domain.random_inputs(len(like), generator).to(like)
    kinds = list(zip(_pieces(target, like), _pieces(target, random), strict=True))
    found = torch.zeros(target.domain.shape, dtype=torch.bool)
    every = target.parameters
    asked: list[tuple[Callable[[Target, Tensor], list[Tensor]], list[str]]] = [(_logits, [*every])]
    asked += [(_update, names) for names in groups(dict(reversed(every.items())), TWICE)]
    for outputs, names in asked:
        with only(every, names):
            for pair in kinds:
                for values in pair:
                    found |= _slopes(outputs, target, values, generator)
                    if bool(enough(found)):
                        return found
                if outputs is _logits and not bool(found.any()):
                    break
    return found


def _slopes(
    outputs: Callable[[Target, Tensor], list[Tensor]], target: Target, values: Tensor, generator: Generator
) -> Tensor:
    """Entries (*shape) in which a random combination of outputs has a derivative at some of the values (B, *shape)."""
    inputs = values.clone().requires_grad_(True)
    given = [tensor for tensor in outputs(target, inputs) if tensor.requires_grad]
    if not given:
        return torch.zeros(values.shape[1:], dtype=torch.bool)
    weights = [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in given]
    gradient = pullback(given, inputs, weights)
    return torch.zeros(values.shape[1:], dtype=torch.bool) if gradient is None else (gradient != 0).any(0).cpu()


def _irrelevant(target: Target, unread: Tensor) -> bool:
    """Whether other values of these entries change no bit of logits and update."""
    one, two = _probes(target)
    mixed = torch.where(unread.to(one.device), two, one)
    every = target.parameters
    with torch.no_grad():
        if not _equal(_logits, target, one, mixed):
            return False
    for names in groups(every, HELD):
        with only(every, names):
            if not _equal(_update, target, one, mixed):
                return False
    return True


def _equal(outputs: Callable[[Target, Tensor], list[Tensor]], target: Target, one: Tensor, other: Tensor) -> bool:
    """Whether outputs are the same, bit by bit, with the same masks."""
    with torch.random.fork_rng(devices=[]):
        before = outputs(target, one)
    after = outputs(target, other)
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _logits(target: Target, inputs: Tensor) -> list[Tensor]:
    return [target.logits(inputs)]


def _update(target: Target, inputs: Tensor) -> list[Tensor]:
    labels = target.task.draw(len(inputs), torch.Generator().manual_seed(0)).to(inputs.device)
    return list(gradient_of(target, inputs, labels, create_graph=inputs.requires_grad).values())


def _change(target: Target) -> float:
    """Norm of the difference of two updates over that of the larger one: c."""
    one, two = (_pieces(target, inputs) for inputs in _probes(target))
    first = _relative(target, one[:1], two[:1])
    return first if first > SURELY or len(one) == 1 else _relative(target, one, two)


def _relative(target: Target, one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """c of the sums of the updates of some batches each."""
    every = target.parameters
    size, larger, apart = 0.0, 0.0, 0.0
    for names in groups(every, HELD):
        with only(every, names):
            first, second = _drawn_update(target, one), _drawn_update(target, two)
        size, larger = size + sum(map(squared, first)), larger + sum(map(squared, second))
        apart += sum(squared_difference(a, b) for a, b in zip(first, second, strict=True))
        del first, second
    return math.sqrt(apart / max(size, larger)) if max(size, larger) > 0 else 0.0


def _drawn_update(target: Target, batches: Sequence[Tensor]) -> list[Tensor]:
    """The sum of the updates of some batches, tensor by tensor; the same masks each time."""
    total: list[Tensor] = []
    labels = target.task.draw(sum(map(len, batches)), torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        for inputs, wanted in zip(batches, torch.split(labels, len(batches[0])), strict=True):
            update = list(gradient_of(target, inputs, wanted.to(inputs.device)).values())
            total = [one + other for one, other in zip(total, update, strict=True)] if total else update
    return total
