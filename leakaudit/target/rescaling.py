"""What a model does to its input by itself: Keras' ``Rescaling(1/255)``, a division by 255, a subtraction of the mean.

Claim: the layers in front of the first trained one that are an affine change of each value, y = a·x + b, are found in
the recorded model and measured by sending constant inputs through them. What a and b say of the unit of the pixels is
decided by the domain (`leakaudit.domains.base.Domain.rescaled`): a model that divides by 255 takes 0..255, and would be
fed nearly black images of 0..1.

Finds nothing where the model cannot be recorded, or where the change is no affine one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, fx

from leakaudit.errors import ModelError
from leakaudit.target.inventory import layers_and_outputs
from leakaudit.target.kinds import Layer
from leakaudit.target.replay import replay
from leakaudit.target.target import FidelityNote, Target
from leakaudit.target.trace import Trace, trace

_PASSED = ("affine", "reshape")
_SPLIT = ("slice", "concat")
_WHOLE = 1e-3
"""Deviation of an entry's number from a whole one that is left to rounding, and to constants of float32; chosen."""
_LINEAR = 1e-6
"""Relative deviation from a straight line that is left to rounding in float64."""


def with_own_rescaling(target: Target) -> Target:
    """The target, its domain in the unit that the model takes, and a note where that is not 0..1."""
    if target.domain.uncounted:
        return target
    change = own_rescaling(target)
    if change is None:
        return target
    domain, said = target.domain.rescaled(*change)
    note = FidelityNote("LA924", said, "pass --mean and --std if the client's pixels are in another unit")
    return replace(target, domain=domain, fidelity=(*target.fidelity, note)) if said else target


def own_rescaling(target: Target) -> tuple[Tensor, Tensor] | None:
    """a and b of y = a·x + b in front of the first trained layer, float64, a number per entry; ``None`` without one."""
    try:
        recorded = trace(target, batch_size=1) if target.batch_sizes is None else trace(target)
        layers, outputs = layers_and_outputs(recorded)
    except ModelError:
        return None
    if target.domain.joint:
        return _of_parts(recorded, layers, outputs, target.parameters)
    last = _last_of_input(layers)
    return None if last is None else _measured(recorded, outputs[last])


def _of_parts(
    recorded: Trace, layers: tuple[Layer, ...], outputs: Mapping[int, fx.Node], trained: Collection[str]
) -> tuple[Tensor, Tensor] | None:
    """a and b where layers that are trained read parts of the input each; ``None`` where no part is changed.

    The entries of a part are told by sending the numbers of all entries through what is in front of such a layer.
    """
    size = prod(recorded.shape(recorded.input))
    slope, offset = torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    plain = {-1: False}  # by layer, whether there are constants in front of it, where nothing is trained
    for position, layer in enumerate(layers):
        if layer.kind in (*_PASSED, *_SPLIT) and not layer.weight and not layer.bias and {*layer.inputs} <= {*plain}:
            plain[position] = layer.kind == "affine" or any(plain[one] for one in layer.inputs)
        elif layer.weight in trained and len(layer.inputs) == 1 and plain.get(layer.inputs[0]):
            output = outputs[layer.inputs[0]]
            measured = _measured(recorded, output)
            index = None if measured is None else _entries(recorded, output, *measured)
            if measured is not None and index is not None:
                slope[index], offset[index] = measured
    return (slope, offset) if bool((slope != 1).any()) or bool(offset.any()) else None


def _entries(recorded: Trace, output: fx.Node, slope: Tensor, offset: Tensor) -> Tensor | None:
    """The entry of the input that each entry of an output is made of; ``None`` where it is made of no single one."""
    shape = recorded.shape(recorded.input)
    numbers = torch.arange(prod(shape), dtype=torch.float64)
    sent = (replay(recorded, recorded.input, output, numbers.reshape(shape)).flatten() - offset) / slope
    index = sent.round()
    known = bool(torch.isfinite(sent).all()) and bool((index >= 0).all()) and bool((index < len(numbers)).all())
    return index.long() if known and float((sent - index).abs().max()) < _WHOLE else None


def _last_of_input(layers: tuple[Layer, ...]) -> int | None:
    """The last layer of constants on the only way from the input to what is trained; ``None`` without one."""
    found = None
    for position, layer in enumerate(layers):
        if layer.inputs != (position - 1,) or layer.kind not in _PASSED or layer.weight or layer.bias:
            break
        found = position if layer.kind == "affine" else found
    return found


def _measured(recorded: Trace, output: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Slope and offset at three constant inputs that lie on a line; ``None`` where they do not."""
    source = recorded.input
    shape = recorded.shape(source)
    zero, one, two = (
        replay(recorded, source, output, torch.full(shape, value, dtype=torch.float64)).flatten()
        for value in (0.0, 1.0, 2.0)
    )
    slope = one - zero
    scale = max(1e-300, float(two.abs().max()))
    return (slope, zero) if float((two - one - slope).abs().max()) <= _LINEAR * scale else None
