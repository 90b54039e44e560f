"""Whether the samples of a batch change each other's outputs, and so each other's gradients.

Clipping the gradient of every sample, and every bound on what one sample can change, takes it that the output of a
sample depends on that sample alone. BatchNorm that normalises with the batch breaks this, and so does whatever else
mixes rows: batch statistics spelt out in arithmetic, attention over the batch, a mixture of experts with a capacity. So
two things are looked at: which BatchNorm layers use statistics of the batch, and whether replacing one sample of a
random batch moves the outputs of the others.

Fails where samples are coupled on rare inputs only, which a random batch does not show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from leakaudit.errors import UsageError
from leakaudit.target.batchnorm import normalised
from leakaudit.target.dropout import dropout_layers
from leakaudit.target.target import Target

SAMPLES = 4
"""Samples of the random batch, where the model takes any number; chosen."""
SAME = 1e-5
"""Relative change of an output that counts as rounding; in the same batch the same row is computed alike."""
WAY_OUT = (
    'replace BatchNorm by GroupNorm, freeze it (batchnorm = "running" in a --train-config), audit with --mode eval, or '
    "clip the client's mean gradient (per=update, without a bound)"
)


@torch.no_grad()
def coupling(target: Target) -> tuple[str, ...]:
    """What couples the samples of a batch: names of BatchNorm layers, else ``a layer`` that is not known; or nothing.

    Args:
        target: In the mode in which its client trains. Dropout draws for every sample by itself and couples nothing.
    """
    with _at_rest(target.module):
        inputs = _random(target, 0)
        calls = normalised(target, inputs)
        layers = tuple(name for name, call in calls.items() if call.running is None)
        if layers or len(inputs) == 1:
            return layers
        return ("a layer that mixes the batch",) if _mixed(target, inputs) else ()


def refuse_coupled(target: Target, what: str) -> None:
    """Refuse what acts on single samples where there are none.

    Args:
        target: See :func:`coupling`.
        what: Acts on them, as it was asked for.

    Raises:
        UsageError: The samples are coupled.
    """
    layers = coupling(target)
    if layers:
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        raise UsageError(
            f"{what} clips the gradient of every sample, and no sample has one of its own: the samples of a batch are "
            f"coupled in train mode by {layers[0]}{more} of {target.name}",
            WAY_OUT,
        )


def _mixed(target: Target, inputs: Tensor) -> bool:
    """Whether another first or last sample moves the outputs of the others."""
    others, plain = _random(target, 1), _logits(target, inputs)
    for row in (0, len(inputs) - 1):
        changed = inputs.clone()
        changed[row] = others[row]
        moved = (_logits(target, changed) - plain).abs()
        moved[row] = 0
        if float(moved.max()) > SAME * float(plain.abs().max()):
            return True
    return False


def _logits(target: Target, inputs: Tensor) -> Tensor:
    """Of a forward that draws the same as every other one, for what draws out of reach (dropout within an LSTM)."""
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return target.logits(inputs)


def _random(target: Target, seed: int) -> Tensor:
    """A batch (B, *shape) that the model takes."""
    like = next(iter(target.parameters.values()))
    size = SAMPLES if target.batch_sizes is None else max(target.batch_sizes)
    inputs = target.random_inputs(size, torch.Generator().manual_seed(seed))
    return inputs.to(like.device, like.dtype if inputs.is_floating_point() else inputs.dtype)


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """No dropout inside; what a forward in train mode counts along is as before afterwards."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    layers = [(layer, layer.training) for layer in dropout_layers(module).values()]
    for layer, _ in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer, training in layers:
            layer.train(training)
        for buffer, value in before:
            buffer.copy_(value)
