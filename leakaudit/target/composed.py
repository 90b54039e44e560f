"""Operators of torch without a second derivative, composed of those that have one.

Of the operators in torch's and torchvision's classifiers, hardsigmoid alone lacks the derivative of its derivative
(torch 2.15, tests/target/test_composed.py): it is ``clamp(x + 3, 0, 6) / 6``, bit for bit. Hard-swish and
hard-tanh are composed as well: their derivatives are then those of one clamp, whatever kernel torch chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leakaudit.target.probe import run


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """Clamp of x + 3 to 0..6, over 6; never in place."""
    return (x + 3).clamp(0, 6) / 6


def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    """x times its hardsigmoid; never in place."""
    return x * (x + 3).clamp(0, 6) / 6


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Clamp of x; never in place."""
    return x.clamp(min_val, max_val)


_aten = torch.ops.aten
COMPOSED: dict[Any, Callable[..., Tensor]] = {
    F.hardsigmoid: hardsigmoid, _aten.hardsigmoid.default: hardsigmoid, _aten.hardsigmoid_.default: hardsigmoid,
    F.hardswish: hardswish, _aten.hardswish.default: hardswish, _aten.hardswish_.default: hardswish,
    F.hardtanh: hardtanh, _aten.hardtanh.default: hardtanh, _aten.hardtanh_.default: hardtanh,
}  # fmt: skip
"""What stands for each; a function of torch and its operators, in place or not."""


class _Mode(TorchFunctionMode):
    """Exchanges the functions of `COMPOSED` and notes whether there was one."""

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        composed = COMPOSED.get(func)
        if composed is None:
            return func(*args, **(kwargs or {}))
        self.met = True
        return composed(*args, **(kwargs or {}))


class _Composing:
    """Mixed into the class of a module that calls an operator of `COMPOSED`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, those operators composed."""
        with _Mode():
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def compose(module: nn.Module, batch: int, native: tuple[int, ...], vocabulary: int | None = None) -> nn.Module:
    """The module, its class exchanged if a forward of sample inputs calls an operator of `COMPOSED`."""
    with _Mode() as mode:
        run(module, batch, native, vocabulary=vocabulary)
    if mode.met:
        original = type(module)
        module.__class__ = type(original.__name__, (_Composing, original), {"__module__": original.__module__})
    return module
