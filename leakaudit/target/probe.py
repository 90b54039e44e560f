"""Small forward and backward passes at load time: which batch sizes work, and whether the second derivative exists."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakaudit.errors import ModelError, first_line
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.answers import answered
from leakaudit.target.parts import let_go
from leakaudit.target.pullback import pullback
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

    Any batch size is accepted if a batch of two gives, sample by sample, what one at a time gives; of three, where the
    exported size is larger than one.
    """
    base = exported or 1
    count = 2 if base == 1 else 3
    inputs = sample(max(count, base), native, 1, vocabulary)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            together = module(inputs[:count])
            alone = (
                torch.cat([module(x) for x in torch.split(inputs, 1)]) if base == 1 else module(inputs[:base])[:count]
            )
        except (ModelError, RuntimeError) as error:
            refuse_exhaustion(error)
            return (base,)
    scale = max(1.0, float(alone.abs().max()))
    same = together.shape[0] == count and float((together[: len(alone)] - alone).abs().max()) <= TOLERANCE * scale
    return None if same else (base,)


@answered(FidelityNote)
def double_backward_note(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None = None
) -> list[FidelityNote]:
    """A note if ``d/dx ‖dLoss/dW‖²`` cannot be computed, with the operator that lacks it; none for token ids.

    W are the trainable tensors, the first and the last of those that are of a shape and whose names differ in numbers
    alone: the layers of a stack have the same operators.
    """
    if vocabulary is not None:
        return []
    x = sample(sizes[0] if sizes else 1, native).requires_grad_()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        return []
    kinds: dict[tuple[str, torch.Size], list[Tensor]] = {}
    for name, p in trained.items():
        kinds.setdefault((re.sub(r"\d+", "#", name), p.shape), []).append(p)
    parameters = [p for same in kinds.values() for p in ([same[0], same[-1]] if len(same) > 1 else same)]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            loss = torch.logsumexp(module(x).reshape(len(x), -1), dim=1).sum()
        grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        let_go()
        taken = [g for g in grads if g is not None and g.requires_grad]
        if not taken:
            raise RuntimeError("its gradients are detached from what they are computed of")
        # half of d/dx ‖g‖², without a tensor of twice each g
        second = pullback(taken, x, [g.detach() for g in taken])
    except RuntimeError as error:
        refuse_exhaustion(error)
        reason = first_line(error)
        text = f"the model has no second derivative ({reason}); only closed-form attacks can run"
        return [FidelityNote("LA930", text, "replace the operator, e.g. use relu6(x + 3) / 6 for hardsigmoid")]
    if second is not None and not bool(torch.isfinite(2 * second).all()):
        text = "the second derivative overflows on random inputs: the weights are far too large to attack numerically"
        return [FidelityNote("LA932", text, "check that the file holds trained weights")]
    return []
