"""What reads a model's input first: that tells a signal from a picture of one row, and a volume from a stack of them.

Claim: the first operator that applies a trained tensor to what comes from the input says what the axes of the input
are: a convolution over one axis has channels and time, one over three has channels and space; a recurrent layer, or a
product with the last axis alone, reads a sequence of feature vectors. It is found by running the model and watching its
operators, whatever file it came from.

Fails, by saying that it is anything, where no known operator is met.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakaudit.errors import ModelError
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.answers import answered
from leakaudit.target.dispatch import DispatchMode
from leakaudit.target.probe import sample

Kind = Literal["convolution", "sequence", "whole", "anything"]
_PRODUCTS = {"addmm": (1, 2), "mm": (0, 1), "bmm": (0, 1), "baddbmm": (1, 2), "linear": (0, 1)}
"""Operators that multiply, and the positions of operand and weight among their arguments."""
_RECURRENT = ("rnn", "lstm", "gru")


@dataclass(frozen=True)
class Consumer:
    """The first operator with a trained tensor.

    Args:
        kind: ``convolution``; ``sequence`` for one that reads the last axis alone, step by step; ``whole`` for one that
            reads all entries at once; ``anything`` else.
        axes: Of a convolution, over how many it goes.
        channels: Of a convolution, how many it reads.
    """

    kind: Kind
    axes: int = 0
    channels: int = 0


class _Found(BaseException):
    """Ends a forward of which no more need be seen; no error, so that no module takes it for one of its own."""


class _Watch(DispatchMode):
    """Keeps the first consumer, and ends the forward there."""

    def __init__(self, module: nn.Module, entries: int, last: int, beside: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.entries, self.last, self.beside = entries, last, beside
        self.found: Consumer | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.found is None:
            self.found = self._consumer(func.overloadpacket.__name__, args)
            if self.found is not None:
                raise _Found
        return func(*args, **(kwargs or {}))

    def _consumer(self, name: str, args: Any) -> Consumer | None:
        if name == "convolution":
            weight, groups, turned = args[1], args[8], args[6]
            channels = weight.shape[0] if turned else weight.shape[1] * groups
            return Consumer("convolution", weight.dim() - 2, channels)
        if any(word in name for word in _RECURRENT):
            return Consumer("sequence")
        place = _PRODUCTS.get(name)
        if place is None or not self._trained(args[place[1]]):
            return None
        operand = args[place[0]]
        if operand.shape[-1] == self.entries:
            return Consumer("whole")
        sequence = operand.shape[-1] == self.last and (operand.dim() > 2 or not self.beside)
        return Consumer("sequence") if sequence else None if self.beside else Consumer("anything")

    def _trained(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.known


@answered(Consumer)
def consumer(module: nn.Module, native: tuple[int, ...], batch: int, part: tuple[int, ...] | None = None) -> Consumer:
    """The first consumer of real-valued inputs (batch, *native).

    Args:
        module: The model.
        native: Shape of one sample.
        batch: How many it takes.
        part: Shape of the one part of a sample that is asked about, where others are read beside it.
    """
    inputs, asked = sample(batch, native), part or native
    watch = _Watch(module, prod(asked), asked[-1], part is not None)
    try:
        with suppress(_Found), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), watch:
            module(inputs)
    except (RuntimeError, ModelError, IndexError) as error:
        refuse_exhaustion(error)  # otherwise it runs without being watched, or is refused where it is run
    return watch.found or Consumer("anything")
