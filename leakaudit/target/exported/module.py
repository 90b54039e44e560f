"""A read ``.pt2`` program as a module that follows train and eval mode.

The graph has the mode of its export written into the arguments of its nodes. Dropout nodes become `Dropout` layers;
BatchNorm nodes take their mode from the module that runs them. Attention with dropout is spelled out by
`leakaudit.target.functional` at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.target.program import Program

TAKEN = frozenset({"_program", "_slots", "complete", "leakaudit_layers", "leakaudit_functional"})
"""Attributes of an `ExportedModule`, which no tensor may have for a name."""


class BatchNorm(nn.Module):
    """BatchNorm whose tensors are inputs; statistics of the batch in train mode, which are not recorded."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(
        self, x: Tensor, scale: Tensor | None, shift: Tensor | None, mean: Tensor | None, variance: Tensor | None
    ) -> Tensor:
        """Normalise ``x`` (N, C, …)."""
        if self.training or mean is None:
            return F.batch_norm(x, None, None, scale, shift, training=True, eps=self.epsilon)
        return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=self.epsilon)


@dataclass(frozen=True, eq=False)
class Part:
    """A graph inside a call; takes the device and its inputs."""

    program: Program

    def __call__(self, device: torch.device, *inputs: Any) -> Any:
        """Run it."""
        return self.program(device, *inputs)


@dataclass(frozen=True, eq=False)
class Grad:
    """``wrap_with_set_grad_enabled``: a part with gradients on or off."""

    enabled: bool
    part: Part

    def __call__(self, device: torch.device, *inputs: Any) -> Any:
        """Run the part."""
        with torch.set_grad_enabled(self.enabled and torch.is_grad_enabled()):
            return self.part(device, *inputs)


@dataclass(frozen=True, eq=False)
class Autocast:
    """``wrap_with_autocast``: a part in another precision."""

    kind: str
    dtype: torch.dtype | None
    enabled: bool
    cached: bool
    part: Part

    def __call__(self, device: torch.device, *inputs: Any) -> Any:
        """Run the part."""
        with torch.autocast(device.type, dtype=self.dtype, enabled=self.enabled, cache_enabled=self.cached):
            return self.part(device, *inputs)


@dataclass(frozen=True, eq=False)
class Branch:
    """``cond``: one of two parts, by a condition."""

    then: Part
    otherwise: Part

    def __call__(self, device: torch.device, condition: Any, *inputs: Any) -> Any:
        """Run the part that the condition chooses."""
        return (self.then if bool(condition) else self.otherwise)(device, *inputs)


class ExportedModule(nn.Module):
    """A program and its tensors.

    ``named_parameters()`` yields the file's names, percent-encoded where torch allows no such name
    (`leakaudit.target.names`). The layers of the program are children named by a counter.
    """

    def __init__(self) -> None:
        super().__init__()
        self._program: Program | None = None
        self._slots: Sequence[tuple[nn.Module, str]] = ()

    def complete(self, program: Program, slots: Sequence[tuple[nn.Module, str]], layers: Sequence[nn.Module]) -> None:
        """Set what the module runs: a program of ``(device, *inputs, *tensors)``, the tensors' places, its layers."""
        self._program, self._slots = program, slots
        self.add_module("leakaudit_layers", nn.ModuleList(layers))

    def forward(self, *inputs: Tensor) -> Any:
        """What the file's program computes of its inputs; a tensor where it returns one."""
        assert self._program is not None
        return self._program(inputs[0].device, *inputs, *[getattr(holder, leaf) for holder, leaf in self._slots])
