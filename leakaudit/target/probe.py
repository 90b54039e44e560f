"""Small forward and backward passes at load time: which batch sizes work, and whether the second derivative exists."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakaudit.errors import ModelError
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
        except (ModelError, RuntimeError):
            return (base,)
    scale = max(1.0, float(alone.abs().max()))
    same = together.shape[0] == 3 and float((together[: len(alone)] - alone).abs().max()) <= TOLERANCE * scale
    return None if same else (base,)


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
        reason = str(error).splitlines()[0]
        text = f"the model has no second derivative ({reason}); only closed-form attacks can run"
        return [FidelityNote("LA930", text, "replace the operator, e.g. use relu6(x + 3) / 6 for hardsigmoid")]
    if second is not None and not bool(torch.isfinite(second).all()):
        text = "the second derivative overflows on random inputs: the weights are far too large to attack numerically"
        return [FidelityNote("LA932", text, "check that the file holds trained weights")]
    return []
