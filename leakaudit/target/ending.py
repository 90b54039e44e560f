"""Where in a model's forward the logits of its probabilities are: a result of a call, counted from the end.

Claim: of the last results that have a row of numbers per sample, the one that fits the outputs best
(`leakaudit.target.fitting`) holds the logits, at the same place for every batch size that the model takes. Outputs that
are each the sigmoid of an entry of such a result are a label each.

Fails inside programs whose calls cannot be seen (TorchScript), and where the number of calls behind the logits depends
on the batch size: the place is then 0, and of a label each the model is refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from leakaudit.errors import ModelError
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.answers import answered
from leakaudit.target.fitting import SPREAD, SUM_TOLERANCE, fitted, is_sigmoid, probabilities, spread
from leakaudit.target.probe import sample

_CONSIDERED = 64
"""Results of calls that are looked at, the last ones; the longest head in use has fewer than ten."""
_ROWS = 8
"""Random inputs whose outputs are looked at."""
SIZES = (1, 2, 4)
"""Batch sizes at which a place is checked where a model takes any."""


@dataclass(frozen=True)
class Head:
    """How logits are had from a model that ends in probabilities.

    Args:
        place: Which result of its shape counted from the end holds them, 1 being the last; 0: the logarithm is taken.
        outputs: Logits per sample.
        sign: -1 where the logit found is that of class 0.
        several: Whether each logit is a label of its own.
    """

    place: int
    outputs: int
    sign: int = 1
    several: bool = False


class Watch(TorchFunctionMode):
    """Keeps the last results that have one row of ``widths`` numbers per sample."""

    def __init__(self, batch: int, widths: tuple[int, ...], length: int) -> None:
        super().__init__()
        self.batch, self.widths = batch, widths
        self.kept: deque[Tensor] = deque(maxlen=length)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not isinstance(result, FakeTensor) and self._fits(result):
            self.kept.append(result)
        return result

    def _fits(self, value: Tensor) -> bool:
        shape = value.shape
        if not shape or shape[0] != self.batch or not value.is_floating_point():
            return False
        return value.numel() in [self.batch * width for width in self.widths]


@answered(Head)
def find_ending(
    module: nn.Module, sizes: tuple[int, ...], native: tuple[int, ...], vocabulary: int | None
) -> Head | None:
    """The head of a module in its mode; ``None`` where it does not end in probabilities."""
    first = _first(module, sizes, native, vocabulary)
    if first is None or _plainly_none(module, first, native, vocabulary):
        return None
    runs: list[tuple[Tensor, list[Tensor]]] = []
    for seed in range(max(1, _ROWS // max(sizes))):
        seen = results_of(module, sample(max(sizes), native, 10 + seed, vocabulary, (-1.0, 2.0)), first.shape[1])
        if seen is None:
            return None
        runs.append(seen)
    outputs = torch.cat([result for result, _ in runs])
    kept = [results for _, results in runs]
    if (several := _several(module, outputs, kept, sizes, native, vocabulary)) is not None:
        return several
    if not probabilities(outputs):
        return None
    fits = [fit for place in range(1, min(map(len, kept)) + 1) if (fit := fitted(outputs, _column(kept, place), place))]
    best = min(fits, key=lambda fit: fit[0], default=None)
    if best is None:
        return Head(0, outputs.shape[1]) if outputs.shape[1] > 1 else None
    _, place, sign = best
    width = kept[0][-place].shape[1]
    among = sum(value.shape[1] == width for value in kept[0][len(kept[0]) - place :])
    inputs = [sample(size, native, 30, vocabulary, (-1.0, 2.0)) for size in sizes]
    same = all(_there(module, x, among, width, outputs.shape[1]) for x in inputs)
    return Head(among, width, sign) if same else Head(0, outputs.shape[1])


def _first(module: nn.Module, sizes: tuple[int, ...], native: tuple[int, ...], vocabulary: int | None) -> Tensor | None:
    """Outputs (B, K) of the smallest batch that a module takes; train mode does not take every one."""
    few = (_outputs(module, sample(size, native, 9, vocabulary, (-1.0, 2.0))) for size in (min(sizes), max(sizes)))
    return next((outputs for outputs in few if outputs is not None), None)


def _plainly_none(module: nn.Module, first: Tensor, native: tuple[int, ...], vocabulary: int | None) -> bool:
    """Whether a batch or two tell already that outputs are no probabilities, so that no more need be looked at.

    Probabilities are not negative, and not all of them are zero. Of classes their sums are the same for all samples.
    Of several labels, they are the sigmoid of some result on the way.

    Args:
        module: In the mode that is asked about.
        first: Outputs (B, K) of one batch.
        native: Shape of one sample.
        vocabulary: Number of token ids, or ``None`` for real numbers.
    """
    if float(first.min()) < -SUM_TOLERANCE:
        return True
    if first.shape[1] == 1:
        return float(first.max()) > 1
    seen = results_of(module, sample(len(first), native, 8, vocabulary, (-1.0, 2.0)), first.shape[1])
    if seen is None:
        return False
    outputs, kept = seen
    both = torch.cat([first, outputs])
    if float(both.min()) < -SUM_TOLERANCE:
        return True
    sums = both.sum(1)
    classes = bool((sums > 0).all()) and float(sums.max() - sums.min()) <= SUM_TOLERANCE * float(sums.max())
    labels = float(both.max()) <= 1 and any(is_sigmoid(outputs, value) for value in kept)
    return not (classes or labels)


def _several(
    module: nn.Module,
    outputs: Tensor,
    kept: list[list[Tensor]],
    sizes: tuple[int, ...],
    native: tuple[int, ...],
    vocabulary: int | None,
) -> Head | None:
    """The head of a sigmoid over several outputs, each of which is a label of its own; ``None`` where there is none.

    Raises:
        ModelError: The place of its logits depends on the batch size.
    """
    width = outputs.shape[1]
    if width == 1 or float(outputs.min()) < 0 or float(outputs.max()) > 1 or probabilities(outputs):
        return None
    places = range(1, min(map(len, kept)) + 1)
    found = next((p for p in places if is_sigmoid(outputs, _column(kept, p))), None)
    if found is None:
        return None
    among = sum(value.shape[1] == width for value in kept[0][len(kept[0]) - found :])
    for size in sizes:
        seen = results_of(module, sample(size, native, 30, vocabulary, (-1.0, 2.0)), width)
        own = [] if seen is None else [value for value in seen[1] if value.shape[1] == width]
        if seen is not None and not (len(own) >= among and is_sigmoid(seen[0], own[-among])):
            raise ModelError(
                f"the model ends in a sigmoid over {width} outputs, whose logits are not found in batches of {size}",
                "pass a model that ends in logits, with --task multi-label",
            )
    return Head(among, width, several=True)


def _outputs(module: nn.Module, x: Tensor) -> Tensor | None:
    """Outputs (B, K) of a module; ``None`` where it cannot run, or returns several."""
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            outputs = module(x)
    except (RuntimeError, ValueError, ModelError) as error:  # train mode does not take every batch
        refuse_exhaustion(error)
        return None
    # several heads in one mode are refused where that mode is asked for
    return outputs.reshape(len(x), -1) if isinstance(outputs, Tensor) else None


def results_of(module: nn.Module, x: Tensor, width: int) -> tuple[Tensor, list[Tensor]] | None:
    """Outputs (B, K) of a module and the results of its calls that could be logits; ``None`` where it cannot run.

    Args:
        module: In the mode that is asked about.
        x: Sample inputs (B, *native).
        width: K.
    """
    with Watch(len(x), (1, width), _CONSIDERED) as watch:
        outputs = _outputs(module, x)
    return None if outputs is None else (outputs, [value.reshape(len(x), -1) for value in watch.kept])


def _there(module: nn.Module, x: Tensor, among: int, width: int, outputs: int) -> bool:
    """Whether the logits have the same place for a batch, which decides about the shapes of all results."""
    seen = results_of(module, x, outputs)
    if seen is None:  # the mode does not take the batch, and never will
        return True
    own = [value for value in seen[1] if value.shape[1] == width]
    if len(own) < among:
        return False
    return len(x) == 1 or spread(seen[0]) < SPREAD or fitted(seen[0], own[-among], among) is not None


def _column(kept: list[list[Tensor]], place: int) -> Tensor | None:
    values = [results[-place] for results in kept]
    return torch.cat(values) if len({value.shape[1] for value in values}) == 1 else None
