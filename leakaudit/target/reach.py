"""How far a model's update depends on its input, looked at where the model is loaded.

Claim: two random inputs with the same label say nearly everything: whether the outputs have a derivative at all, how
much the gradient changes from one input to another, whether the input has a slope, and which trainable tensors had a
gradient of zero. More inputs are asked only about what these two left open.

Memory: samples go through one at a time where the model takes any batch, and of large models the gradients of some
tensors at a time are held (`leakaudit.target.parts.groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from leakaudit.errors import ModelError
from leakaudit.target.answers import answered
from leakaudit.target.parts import HELD, groups, let_go, only, squared, squared_difference
from leakaudit.target.probe import sample
from leakaudit.target.target import FidelityNote

HARDLY = 1e-3
"""Relative change of an update below which its input is as good as not in it: rounding of single precision in a deep
network is about 1e-5, and the smallest change of a trained classifier in the tests is 0.02."""
_MORE = 2
"""Samples that are asked beyond the two of :func:`reach`, where the model takes any number; chosen."""
_MANY = 64
"""Samples whose outputs are compared, at least, where neither outputs nor update moved with the first; chosen: a
threshold that one in twenty random inputs passes stays unseen once in 27 times."""


@dataclass(frozen=True)
class Reach:
    """How far a model's update depends on its input.

    Args:
        outputs: Whether the outputs have a derivative with respect to any trainable tensor.
        change: Relative change of the gradient from one random input to another, with the same label.
        cut: The last call whose result has no derivative although its input has one, or "".
        slope: Whether the loss has a derivative with respect to the input that is not zero everywhere; ``None`` where
            it has none at all, as of token ids.
        silent: Trainable tensors whose gradient is zero for both inputs.
        moved: Whether the outputs differ from one input to another.
    """

    outputs: bool
    change: float
    cut: str
    slope: bool | None
    silent: list[str]
    moved: bool


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
    named = _trainable(module)
    inputs = [sample(sizes[0] if sizes else 1, native, seed, vocabulary, (-0.5, 1.5)) for seed in (5, 6)]
    cuts, found, silent = _Cuts(), False, []
    slope: bool | None = None
    size = apart = 0.0
    seen: list[Tensor] = []
    for group in groups(named, HELD):
        with only(named, group) as tensors:
            real = vocabulary is None and slope is None
            updates = [_gradients(module, x.requires_grad_(real), tensors, cuts, seen) for x in inputs]
        for _, given in updates:
            slope = slope if given is None else bool(slope) or bool(given.any())
        for name, one, other in zip(group, updates[0][0], updates[1][0], strict=True):
            found = found or one is not None
            if one is None or other is None or not (bool(one.any()) or bool(other.any())):
                silent.append(name)
            if one is not None and other is not None:
                size, apart = size + squared(one), apart + squared_difference(one, other)
        del updates
        let_go()
    change = sqrt(apart / size) if size > 0 else 0.0
    named_silent = [name for name in named if name in {*silent}]
    return Reach(found, change if found else 0.0, cuts.last, slope, named_silent, not _alike(seen))


def _alike(outputs: Sequence[Tensor]) -> bool:
    """Whether all rows of all outputs are the same."""
    rows = torch.cat([*outputs])
    return bool((rows == rows[:1]).all())


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _gradients(
    module: nn.Module, x: Tensor, tensors: Sequence[Tensor], cuts: _Cuts, seen: list[Tensor]
) -> tuple[Sequence[Tensor | None], Tensor | None]:
    """Of the loss against class 0, with respect to some tensors, and to inputs (B, *native) that ask for one.

    The outputs (B, K) are put into the list.
    """
    with sdpa_kernel(SDPBackend.MATH), cuts:
        logits = module(x).reshape(len(x), -1)
    seen.append(logits.detach())
    if not logits.requires_grad:
        return [None] * len(tensors), None
    padded = torch.nn.functional.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
    loss = torch.nn.functional.cross_entropy(padded, torch.zeros(len(x), dtype=torch.long))
    if not x.requires_grad:
        return torch.autograd.grad(loss, tensors, allow_unused=True), None
    *grads, slope = torch.autograd.grad(loss, [*tensors, x], allow_unused=True)
    return grads, slope


@answered(FidelityNote)
def reach_note(
    module: nn.Module,
    sizes: tuple[int, ...] | None,
    native: tuple[int, ...],
    vocabulary: int | None,
    label: str,
    where: str = "",
    found: Reach | None = None,
    silent: Sequence[str] | None = None,
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
        silent: Those of its silent tensors that :func:`silent_tensors` leaves, where it was asked.

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
    if cut and vocabulary is None and not found.slope and not _input_has_part(module, sizes, native, found):
        left = silent_tensors(module, sizes, native, vocabulary, found.silent) if silent is None else silent
        if not left:
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


def _input_has_part(module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], found: Reach) -> bool:
    """Whether the outputs have a derivative with respect to real-valued inputs that is not zero everywhere.

    Also said where the input moves the update and no output, as before a last layer that begins at zero, or nothing at
    all: nothing is then cut off.

    Args:
        module: In the mode of the audit.
        sizes: Batch sizes that it takes, ``None`` for any.
        native: Shape of one sample.
        found: What :func:`reach` says, no slope or one of zero.
    """
    if found.slope is None:
        return False
    if not found.moved and found.change > HARDLY:
        return True
    if any(_has_slope(module, x) for x in _more(sizes, native, 7)):
        return True
    inputs = sample(max(_MANY, 2 * (sizes[0] if sizes else 1)), native, 8, limits=(-0.5, 1.5))
    batches = [x for x in torch.split(inputs, sizes[0] if sizes else 1) if not sizes or len(x) == sizes[0]]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return not found.moved and _alike([module(x) for x in batches])


def _has_slope(module: nn.Module, x: Tensor) -> bool:
    """Whether the squared outputs have a derivative that is not zero at inputs (B, *native)."""
    with sdpa_kernel(SDPBackend.MATH):
        outputs = module(x.requires_grad_())
    (slope,) = torch.autograd.grad(outputs.square().sum(), x, allow_unused=True)
    return slope is not None and bool(slope.any())


@answered()
def silent_tensors(
    module: nn.Module,
    sizes: tuple[int, ...] | None,
    native: tuple[int, ...],
    vocabulary: int | None,
    among: Sequence[str],
) -> list[str]:
    """Of these trainable tensors, the names of those whose gradient is zero for further random inputs too.

    The labels are random weights of all outputs.
    """
    named, left = _trainable(module), list(among)
    for x in _more(sizes, native, 3, vocabulary) if left else ():
        with sdpa_kernel(SDPBackend.MATH):
            logits = module(x)
        weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(4))
        loss = (torch.nn.functional.softplus(logits) * weights).sum()
        grads = torch.autograd.grad(loss, [named[name] for name in left], allow_unused=True)
        left = [name for name, grad in zip(left, grads, strict=True) if grad is None or not bool(grad.any())]
        del logits, loss, grads
        let_go()
        if not left:
            break
    return left


def _more(
    sizes: tuple[int, ...] | None, native: tuple[int, ...], seed: int, vocabulary: int | None = None
) -> Sequence[Tensor]:
    """Further random inputs, as batches that a model takes: of one where it takes any."""
    inputs = sample(sizes[0] if sizes else _MORE, native, seed, vocabulary, (-0.5, 1.5))
    return [inputs] if sizes else torch.split(inputs, 1)
