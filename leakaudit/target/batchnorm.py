r"""BatchNorm of any Target: which statistics it normalises with, what a batch leaves in them, and who sees that.

A layer sees ``x`` (B, C, …) and normalises channel c with μ_c and σ²_c: those of the batch, or the running ones. Who
shares the statistics of a batch tells the mean and variance of every channel of every layer. Who shares the running
statistics after the step, as a client does that sends its whole state dict, tells the same, because the server knows
them before the step:

.. math:: r' = (1 - m)\, r + m\, \mu_B \;\Rightarrow\; \mu_B = \frac{r' - (1 - m)\, r}{m}

up to a rounding of about 1e-7/m, and likewise the variance, which torch stores with the factor n/(n-1).

Layers are found where they run, so ONNX graphs, exported programs and modules are the same. Fails inside TorchScript,
which cannot be looked into, and where BatchNorm is spelt out as arithmetic.
Reference: Ioffe and Szegedy 2015, arXiv 1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from leakaudit.errors import UsageError
from leakaudit.target.exported.module import BatchNorm
from leakaudit.target.target import SharedStatistics, Target
from leakaudit.target.trace import usable_batch_size

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Mean and biased variance (C,) of each layer's input, by layer name."""
Source = Literal["batch", "running"]
FOLDED = "an exporter may have folded them into convolutions: export without constant folding"


@dataclass(frozen=True, eq=False)
class Call:
    """One BatchNorm at work.

    Args:
        inputs: What it normalises (B, C, …), differentiable.
        running: Running mean and variance (C,) that it normalises with; ``None`` where it uses the batch's.
        momentum: Weight of a batch in the running statistics.
    """

    inputs: Tensor
    running: tuple[Tensor, Tensor] | None
    momentum: float

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) of the input, differentiable."""
        axes = [axis for axis in range(self.inputs.dim()) if axis != 1]
        return self.inputs.mean(axes), self.inputs.var(axes, correction=0)

    @property
    def count(self) -> int:
        """Values per channel."""
        return self.inputs.numel() // self.inputs.shape[1]


class _Watch(TorchFunctionMode):
    """Notes every BatchNorm of the forwards inside, in order."""

    def __init__(self, calls: list[tuple[Tensor | None, Call]]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        if func is F.batch_norm and not isinstance(
            args[0], FakeTensor
        ):  # a fake one belongs to the building of a program
            inputs, mean, variance = args[:3]
            running = None if keywords.get("training") or mean is None else (mean, variance)
            weight = keywords.get("weight")
            self.calls.append(
                (mean if weight is None else weight, Call(inputs, running, keywords.get("momentum") or 0.0))
            )
        return func(*args, **keywords)


def normalised(target: Target, inputs: Tensor) -> dict[str, Call]:
    """Every BatchNorm in one forward of `inputs` (B, C, H, W), in order, named after the module that owns its tensors.

    A layer that runs again is ``name#1`` and so on.
    """
    calls: list[tuple[Tensor | None, Call]] = []
    with _Watch(calls):
        target.logits(inputs)
    return _named(target.module, calls)


@contextmanager
def watched(target: Target) -> Iterator[dict[str, Call]]:
    """As :func:`normalised`, for the one forward inside; filled in at the end."""
    calls: list[tuple[Tensor | None, Call]] = []
    found: dict[str, Call] = {}
    with _Watch(calls):
        yield found
    found.update(_named(target.module, calls))


def _named(module: nn.Module, calls: list[tuple[Tensor | None, Call]]) -> dict[str, Call]:
    owners = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    found: dict[str, Call] = {}
    for key, call in calls:
        full = owners.get(id(key), f"batchnorm{len(found)}.")
        name = full.rpartition(".")[0] or full
        again = sum(other.partition("#")[0] == name for other in found)
        found[f"{name}#{again}" if again else name] = call
    return found


@contextmanager
def normalising_with(module: nn.Module, source: Source) -> Iterator[None]:
    """BatchNorm uses these statistics inside, whatever the module's mode."""
    switches = _switches(module)
    before = [getattr(owner, name) for owner, name in switches]
    try:
        for owner, name in switches:
            setattr(owner, name, source == "batch")
        yield
    finally:
        for (owner, name), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def set_batchnorm(module: nn.Module, source: Source, label: str) -> None:
    """Let BatchNorm normalise with statistics of the batch or with the running ones, whatever the module's mode.

    Raises:
        UsageError: There is no BatchNorm whose statistics could be chosen.
    """
    switches = _switches(module)
    if not switches:
        raise UsageError(f"batchnorm {source!r} was asked for, but {label} has no BatchNorm layers", FOLDED)
    for owner, name in switches:
        setattr(owner, name, source == "batch")


def _switches(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The attributes that decide which statistics are used: one of an ONNX graph, one per layer otherwise."""
    from leakaudit.target.onnx.module import OnnxModule

    if isinstance(module, OnnxModule):
        layers = any(node.op_type == "BatchNormalization" for node in module.source.nodes)
        return [(module, "batch_statistics")] if layers else []
    return [(m, "training") for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | BatchNorm)]


@torch.no_grad()
def running_statistics(target: Target) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance that each layer has gathered in training, by layer name; part of the model."""
    with normalising_with(target.module, "running"):
        calls = normalised(target, blank(target))
    return {name: call.running for name, call in calls.items() if call.running is not None}


def is_trained(statistics: Statistics) -> bool:
    """Whether running statistics differ from the mean 0 and variance 1 that every layer starts with."""
    return any(bool(mean.any()) or not bool((variance == 1).all()) for mean, variance in statistics.values())


def updated(before: tuple[Tensor, Tensor], call: Call) -> tuple[Tensor, Tensor]:
    """The running statistics after a step on this input, as torch updates them."""
    mean, variance = call.statistics
    unbiased = variance * call.count / max(1, call.count - 1)
    m = call.momentum
    return (1 - m) * before[0] + m * mean, (1 - m) * before[1] + m * unbiased


def read(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], momentum: float, count: int
) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`updated`: mean and biased variance of the batch, from what a server has.

    Args:
        before: Running mean and variance in the model that it sent.
        after: Those that came back.
        momentum: Of the layer.
        count: Values per channel: batch size times positions.
    """
    mean, unbiased = ((a - (1 - momentum) * b) / momentum for a, b in zip(after, before, strict=True))
    return mean, unbiased.clamp_min(0) * (count - 1) / count


def sharing(target: Target, kind: SharedStatistics) -> Target:
    """The target of a client that shares statistics of its batch with every update.

    Raises:
        UsageError: It has no BatchNorm, or none that uses statistics of the batch.
    """
    if kind == "none":
        return target
    with torch.no_grad():
        calls = normalised(target, blank(target))
    if not calls:
        raise UsageError(f"BatchNorm statistics are to be shared, but {target.name} has no BatchNorm layers", FOLDED)
    if all(call.running is not None for call in calls.values()):
        raise UsageError(
            f"BatchNorm statistics are to be shared, but {target.name} normalises with running ones, so that no batch "
            "leaves any",
            "audit the client in train mode with --mode train",
        )
    return replace(target, shared_statistics=kind)


def revealed(target: Target, calls: Mapping[str, Call], kind: SharedStatistics) -> dict[str, tuple[Tensor, Tensor]]:
    """What a server learns of a batch from the statistics that its client shares, by layer name.

    Args:
        target: The model as the server sent it.
        calls: Its layers at work on the batch.
        kind: What is shared.
    """
    layers = {name: call for name, call in calls.items() if call.running is None}
    with torch.no_grad():
        if kind == "batch":
            return {name: call.statistics for name, call in layers.items()}
        before = running_statistics(target) if kind == "running" else {}
        return {
            name: read(before[name], updated(before[name], call), call.momentum, call.count)
            for name, call in layers.items()
            if name in before and call.momentum > 0
        }


def blank(target: Target, samples: int | None = None) -> Tensor:
    """Inputs of zeros (B, *shape), of so many samples or of any number that the model takes."""
    like = next(iter(target.parameters.values()))
    if samples is None:
        samples = max(2, usable_batch_size(target)) if target.batch_sizes is None else usable_batch_size(target)
    return torch.zeros((samples, *target.image_shape), dtype=like.dtype, device=like.device)
