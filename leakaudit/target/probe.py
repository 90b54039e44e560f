"""Small forward and backward passes at load time: which batch sizes work, and whether the second derivative exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from leakaudit.errors import ModelError, first_line
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.answers import answered
from leakaudit.target.target import FidelityNote

TOLERANCE = 1e-4


def sample(
    batch: int,
    native: tuple[int, ...],
    seed: int = 0,
    vocabulary: int | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Reproducible inputs (batch, *native): numbers between `limits`, or token ids where there is a vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    if vocabulary is not None:
        return torch.randint(vocabulary, (batch, *native), generator=generator)
    low, high = limits
    return torch.rand(batch, *native, generator=generator) * (high - low) + low


def run(module: nn.Module, batch: int, native: tuple[int, ...], seed: int = 0, vocabulary: int | None = None) -> Tensor:
    """Outputs of a module for sample inputs, without gradients."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        result: Tensor = module(sample(batch, native, seed, vocabulary))
    return result


@answered()
def batch_sizes(
    module: nn.Module, exported: int | None, native: tuple[int, ...], vocabulary: int | None = None
) -> tuple[int, ...] | None:
    """Batch sizes that a model accepts; ``None`` for any.

    Any batch size is accepted if a batch of three gives, sample by sample, what the exported size gives.
    """
    base = exported or 1
    inputs = sample(max(3, base), native, 1, vocabulary)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            together = module(inputs[:3])
            alone = module(inputs[:base])[:3] if base > 1 else torch.cat([module(inputs[i : i + 1]) for i in range(3)])
        except (ModelError, RuntimeError) as error:
            refuse_exhaustion(error)
            return (base,)
    scale = max(1.0, float(alone.abs().max()))
    same = together.shape[0] == 3 and float((together[: len(alone)] - alone).abs().max()) <= TOLERANCE * scale
    return None if same else (base,)


@dataclass(frozen=True)
class Reach:
    """How far a model's update depends on its input.

    Args:
        outputs: Whether the outputs have a derivative with respect to any trainable tensor.
        change: Relative change of the gradient from one random input to another, with the same label.
        cut: The last call whose result has no derivative although its input has one, or "".
    """

    outputs: bool
    change: float
    cut: str


class _Cuts(TorchFunctionMode):
    """Notes calls that end a derivative: comparisons, roundings to integers, indices of a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result.requires_grad:
            given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
            if any(value.requires_grad for value in given):
                self.last = str(getattr(func, "__name__", func))
        return result


@answered(Reach)
def reach(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None = None
) -> Reach:
    """Whether the update of a model depends on its input, by two random inputs with the same label."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    batch = sizes[0] if sizes else 1
    updates: list[Tensor] = []
    cuts = _Cuts()
    for seed in range(2):
        x = sample(batch, native, 5 + seed, vocabulary, (-0.5, 1.5))
        with sdpa_kernel(SDPBackend.MATH), cuts:
            logits = module(x if vocabulary is not None else x.requires_grad_()).reshape(batch, -1)
        if not logits.requires_grad:
            return Reach(False, 0.0, cuts.last)
        padded = torch.nn.functional.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
        loss = torch.nn.functional.cross_entropy(padded, torch.zeros(batch, dtype=torch.long))
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        if all(grad is None for grad in grads):
            return Reach(False, 0.0, cuts.last)
        updates.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    norm = float(updates[0].norm())
    return Reach(True, float((updates[0] - updates[1]).norm()) / norm if norm > 0 else 0.0, cuts.last)


HARDLY = 1e-3
"""Relative change of an update below which its input is as good as not in it: rounding of single precision in a deep
network is about 1e-5, and the smallest change of a trained classifier in the tests is 0.02."""


@answered(FidelityNote)
def reach_note(
    module: nn.Module,
    sizes: tuple[int, ...] | None,
    native: tuple[int, ...],
    vocabulary: int | None,
    label: str,
    where: str = "",
    found: Reach | None = None,
) -> list[FidelityNote]:
    """A note where the update hardly depends on the input.

    Args:
        module: In the mode of the audit.
        sizes: Batch sizes that it takes, ``None`` for any.
        native: Shape of one sample.
        vocabulary: Number of token ids, or ``None`` for real numbers.
        label: The model's name.
        where: The node that ends the derivative, where the caller knows it better.
        found: What :func:`reach` says, where it was asked.

    Raises:
        ModelError: The outputs have no derivative, or what stands between the input and a call that ends it is trained
            without a gradient.
    """
    found = found or reach(module, sizes, native, vocabulary)
    cut = where or found.cut
    if not found.outputs:
        raise ModelError(
            f"{label}: the output is not differentiable{f', cut off by {cut}' if cut else ''}: no update trains it",
            "choose the scores in front of it with --output NAME, or export the model that is trained",
        )
    if cut and not _input_has_part(module, sizes, native, vocabulary):
        if not silent_tensors(module, sizes, native, vocabulary):
            return []  # a look-up in a trained table
        raise ModelError(
            f"{label}: the input reaches the output through {cut} alone, which has no derivative: a tree ensemble or a "
            "rule written as matrices, which no gradient trains",
            "audit the model that clients train by gradients",
        )
    if found.change > HARDLY:
        return []
    text = f"the update hardly depends on the input: it changes by {found.change:.1g} of its size between random inputs"
    return [FidelityNote("LA933", text, "check that the file holds the trained network and takes inputs of this range")]


def _input_has_part(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None
) -> bool:
    """Whether the outputs have a derivative with respect to the input.

    Always said of token ids, which have none, and where the input does not move the outputs at all, as before a last
    layer that begins at zero: nothing is then cut off.
    """
    if vocabulary is not None:
        return True
    x = sample(sizes[0] if sizes else 4, native, 7, limits=(-0.5, 1.5)).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        outputs = module(x)
    (slope,) = torch.autograd.grad(outputs.square().sum(), x, allow_unused=True)
    if slope is None:
        return False
    return bool(slope.any()) or bool((outputs == outputs[:1]).all())


@answered()
def silent_tensors(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None = None
) -> list[str]:
    """Names of trainable tensors whose gradient is zero for a batch of random inputs with random labels."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    inputs = sample(sizes[0] if sizes else 4, native, 3, vocabulary, (-0.5, 1.5))
    with sdpa_kernel(SDPBackend.MATH):
        logits = module(inputs)
    weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(4))
    loss = (torch.nn.functional.softplus(logits) * weights).sum()
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return [name for name, grad in zip(named, grads, strict=True) if grad is None or not bool(grad.any())]


@answered(FidelityNote)
def double_backward_note(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None = None
) -> list[FidelityNote]:
    """A note if ``d/dx ‖dLoss/dW‖²`` cannot be computed, with the operator that lacks it; none for token ids."""
    if vocabulary is not None:
        return []
    x = sample(sizes[0] if sizes else 1, native).requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return []
    try:
        with sdpa_kernel(SDPBackend.MATH):
            loss = torch.logsumexp(module(x).reshape(len(x), -1), dim=1).sum()
        grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        total = torch.stack([g.square().sum() for g in grads if g is not None]).sum()
        (second,) = torch.autograd.grad(total, x, allow_unused=True)
    except RuntimeError as error:
        refuse_exhaustion(error)
        reason = first_line(error)
        text = f"the model has no second derivative ({reason}); only closed-form attacks can run"
        return [FidelityNote("LA930", text, "replace the operator, e.g. use relu6(x + 3) / 6 for hardsigmoid")]
    if second is not None and not bool(torch.isfinite(second).all()):
        text = "the second derivative overflows on random inputs: the weights are far too large to attack numerically"
        return [FidelityNote("LA932", text, "check that the file holds trained weights")]
    return []
