r"""Models that end in probabilities: the logits in front of them, found by values, whatever the head was spelt as.

Training code puts its loss on logits :math:`z`; a model that is handed over often ends in :math:`p = softmax(z)`, spelt
out, clipped, mixed with the uniform distribution, scaled to per cent, or as :math:`[1 - p, p]` of one sigmoid. The loss
of softmax outputs taken for logits has another gradient (measured: off by 80 %).

Claim: outputs between 0 and 1 (or a common factor) that sum to the same number on random inputs are probabilities. The
result of a call inside the forward is their logits if an affine function of its softmax, or of its sigmoid, gives them
to a five-hundredth of their spread; the best such result is taken. Where there is none, the logarithm of the
normalised outputs stands for the logits: cross-entropy on it is the negative log-likelihood of the outputs. Several
outputs that are each the sigmoid of an entry of such a result are a label each, and that result are their logits.

Fails, towards the logarithm, inside programs whose calls cannot be seen (TorchScript), and where the number of calls
behind the logits depends on the batch size.
"""

from __future__ import annotations

import math
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
from leakaudit.target.probe import sample
from leakaudit.target.target import FidelityNote

_SUM_TOLERANCE = 1e-4
"""Relative deviation of a sum of probabilities in single precision, clipped ones included."""
_FIT_TOLERANCE = 2e-3
"""Residual of a fit, as a share of the spread of the outputs."""
_SPREAD = 1e-6
"""Least spread of outputs in which anything can be recognised in single precision."""
_CONSIDERED = 64
"""Results of calls that are looked at, the last ones; the longest head in use has fewer than ten."""
_ROWS = 8
"""Random inputs whose outputs are looked at."""
_SIZES = (1, 2, 4)
"""Batch sizes at which a place is checked where a model takes any."""
_TINY = 1e-12
"""Below the smallest probability that a head clips to (1e-7 and larger are in use)."""
STATE = "leakaudit_head"


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


class _Watch(TorchFunctionMode):
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


class _Headless:
    """Mixed into the class of a module that ends in probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, K) in front of what the module's own forward returns."""
        head: Head | None = getattr(self, STATE)[bool(self.training)]  # type: ignore[attr-defined]
        if head is None:
            result: Tensor = super().forward(x)  # type: ignore[misc]
            return result
        if head.place == 0:
            return _logarithm(super().forward(x))  # type: ignore[misc]
        with _Watch(len(x), (head.outputs,), head.place) as watch:
            super().forward(x)  # type: ignore[misc]
        logits: Tensor = watch.kept[0].reshape(len(x), -1) * head.sign
        return logits


def _logarithm(outputs: Tensor) -> Tensor:
    flat = outputs.reshape(len(outputs), -1)
    return (flat / flat.sum(1, keepdim=True)).clamp_min(_TINY).log()


def without_probabilities(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None = None
) -> tuple[nn.Module, list[FidelityNote]]:
    """The module that returns logits, its class exchanged if it ended in probabilities, and what was done.

    Args:
        module: Returns (B, K); in whatever mode, which is kept.
        sizes: Batch sizes that it takes, ``None`` for any.
        native: Shape of one of its samples.
        vocabulary: Number of token ids, or ``None`` for real numbers.
    """
    training, heads = module.training, _in_both_modes(module, sizes, native, vocabulary)
    found = heads[training] or heads[False] or heads[True]
    if found is None:
        return module, []
    original = type(module)
    module.__class__ = type(original.__name__, (_Headless, original), {"__module__": original.__module__})
    setattr(module, STATE, heads)
    return module, [_note(found)]


def _in_both_modes(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None
) -> dict[bool, Head | None]:
    """The head in eval and in train mode, by whether it is train mode; the module keeps its own."""
    training, state = module.training, torch.get_rng_state()
    try:
        if not getattr(module, "depends_on_mode", True):
            return dict.fromkeys((False, True), _find(module, sizes or _SIZES, native, vocabulary))
        return {mode: _find(module.train(mode), sizes or _SIZES, native, vocabulary) for mode in (False, True)}
    finally:
        module.train(training)
        torch.set_rng_state(state)


def probable(
    module: nn.Module, sizes: tuple[int, ...] | None, native: tuple[int, ...], vocabulary: int | None = None
) -> bool:
    """Whether a module ends in probabilities, in either mode; arguments as of :func:`without_probabilities`."""
    return any(_in_both_modes(module, sizes, native, vocabulary).values())


def refuse_probabilities(
    module: nn.Module,
    batch: int,
    native: tuple[int, ...],
    vocabulary: int | None,
    returned: tuple[int, ...],
    places: tuple[int, ...],
    label: str,
) -> None:
    """Refuse a model that returns probabilities at each place: their logits are not looked for.

    Args:
        module: Returns outputs of the shape below, or flattened.
        batch: Samples that it takes.
        native: Shape of one.
        vocabulary: Number of token ids, or ``None`` for real numbers.
        returned: Shape of the outputs of one sample, (K, *places) or (*places, K).
        places: Sizes of the axes of a sample.
        label: The model's name.

    Raises:
        ModelError: It does.
    """
    seen = _results(module, sample(batch, native, 10, vocabulary, (-1.0, 2.0)), math.prod(returned))
    if seen is None:
        return
    flat, kept = seen
    outputs = flat.reshape(batch, *returned)
    by_class = outputs.movedim(1, -1) if tuple(returned[1:]) == places else outputs
    rows = by_class.reshape(-1, by_class.shape[-1])
    count = len(rows) // batch
    ends = probabilities(rows) if rows.shape[1] > 1 else any(_is_sigmoid(flat, value) for value in kept)
    if ends:
        raise ModelError(
            f"{label} returns probabilities at each of {count} places", "export the logits, without softmax or sigmoid"
        )


def several_labels(module: nn.Module) -> bool:
    """Whether a module ended in a sigmoid over several outputs, which :func:`without_probabilities` took off."""
    heads: dict[bool, Head | None] = getattr(module, STATE, {})
    return any(head is not None and head.several for head in heads.values())


def _note(head: Head) -> FidelityNote:
    if head.several:
        text = f"the model ends in a sigmoid over {head.outputs} outputs; the loss uses the logits in front of it"
        return FidelityNote("LA910", text)
    if head.place == 0:
        text = "the model ends in probabilities whose logits were not found; their logarithm is audited"
        return FidelityNote("LA916", text, "pass a model that ends in logits")
    kind = "of one logit" if head.outputs == 1 else f"of {head.outputs} classes"
    return FidelityNote("LA910", f"the model ends in probabilities {kind}; the loss uses the logits in front of them")


@answered(Head)
def _find(module: nn.Module, sizes: tuple[int, ...], native: tuple[int, ...], vocabulary: int | None) -> Head | None:
    """The head of a module in its mode; ``None`` where it does not end in probabilities."""
    first = _first(module, sizes, native, vocabulary)
    if first is None or _plainly_none(module, first, native, vocabulary):
        return None
    runs: list[tuple[Tensor, list[Tensor]]] = []
    for seed in range(max(1, _ROWS // max(sizes))):
        seen = _results(module, sample(max(sizes), native, 10 + seed, vocabulary, (-1.0, 2.0)), first.shape[1])
        if seen is None:
            return None
        runs.append(seen)
    outputs = torch.cat([result for result, _ in runs])
    kept = [results for _, results in runs]
    if (several := _several(module, outputs, kept, sizes, native, vocabulary)) is not None:
        return several
    if not probabilities(outputs):
        return None
    fits = [fit for place in range(1, min(map(len, kept)) + 1) if (fit := _fit(outputs, _column(kept, place), place))]
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
    if float(first.min()) < -_SUM_TOLERANCE:
        return True
    if first.shape[1] == 1:
        return float(first.max()) > 1
    seen = _results(module, sample(len(first), native, 8, vocabulary, (-1.0, 2.0)), first.shape[1])
    if seen is None:
        return False
    outputs, kept = seen
    both = torch.cat([first, outputs])
    if float(both.min()) < -_SUM_TOLERANCE:
        return True
    sums = both.sum(1)
    classes = bool((sums > 0).all()) and float(sums.max() - sums.min()) <= _SUM_TOLERANCE * float(sums.max())
    labels = float(both.max()) <= 1 and any(_is_sigmoid(outputs, value) for value in kept)
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
    found = next((p for p in places if _is_sigmoid(outputs, _column(kept, p))), None)
    if found is None:
        return None
    among = sum(value.shape[1] == width for value in kept[0][len(kept[0]) - found :])
    for size in sizes:
        seen = _results(module, sample(size, native, 30, vocabulary, (-1.0, 2.0)), width)
        own = [] if seen is None else [value for value in seen[1] if value.shape[1] == width]
        if seen is not None and not (len(own) >= among and _is_sigmoid(seen[0], own[-among])):
            raise ModelError(
                f"the model ends in a sigmoid over {width} outputs, whose logits are not found in batches of {size}",
                "pass a model that ends in logits, with --task multi-label",
            )
    return Head(among, width, several=True)


def _is_sigmoid(outputs: Tensor, values: Tensor | None) -> bool:
    """Whether outputs (B, K) are the sigmoid of these values, entry by entry."""
    if values is None or values.shape != outputs.shape:
        return False
    return float((torch.sigmoid(values) - outputs).abs().max()) <= _SUM_TOLERANCE


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


def _results(module: nn.Module, x: Tensor, width: int) -> tuple[Tensor, list[Tensor]] | None:
    """Outputs (B, K) of a module and the results of its calls that could be logits; ``None`` where it cannot run.

    Args:
        module: In the mode that is asked about.
        x: Sample inputs (B, *native).
        width: K.
    """
    with _Watch(len(x), (1, width), _CONSIDERED) as watch:
        outputs = _outputs(module, x)
    return None if outputs is None else (outputs, [value.reshape(len(x), -1) for value in watch.kept])


def _there(module: nn.Module, x: Tensor, among: int, width: int, outputs: int) -> bool:
    """Whether the logits have the same place for a batch, which decides about the shapes of all results."""
    seen = _results(module, x, outputs)
    if seen is None:  # the mode does not take the batch, and never will
        return True
    own = [value for value in seen[1] if value.shape[1] == width]
    if len(own) < among:
        return False
    return len(x) == 1 or _spread(seen[0]) < _SPREAD or _fit(seen[0], own[-among], among) is not None


def _column(kept: list[list[Tensor]], place: int) -> Tensor | None:
    values = [results[-place] for results in kept]
    return torch.cat(values) if len({value.shape[1] for value in values}) == 1 else None


def probabilities(outputs: Tensor) -> bool:
    """Whether outputs (B, K) are class probabilities up to a factor, or one probability each."""
    if not bool(torch.isfinite(outputs).all()) or float(outputs.min()) < -_SUM_TOLERANCE or _spread(outputs) < _SPREAD:
        return False
    if outputs.shape[1] == 1:
        return float(outputs.max()) <= 1
    sums = outputs.sum(1)
    return float(sums.max() - sums.min()) <= _SUM_TOLERANCE * float(sums.mean().abs())


def _spread(outputs: Tensor) -> float:
    return float((outputs - outputs.mean(0)).abs().max())


def _fit(outputs: Tensor, values: Tensor | None, place: int) -> tuple[float, int, int] | None:
    """Residual, place and sign where an affine function of the values' softmax or sigmoid gives the outputs."""
    if values is None or not bool(torch.isfinite(values).all()):
        return None
    if values.shape[1] > 1:
        tries = [(torch.softmax(values, 1), 1)]
    else:
        tries = [(torch.sigmoid(values), 1), (torch.sigmoid(-values), -1)]
    wanted = outputs if values.shape[1] > 1 else outputs[:, -1:]
    if outputs.shape[1] == 1:  # a single number may be anything between 0 and 1: a sigmoid is taken as it is
        tries = [(given, sign) for given, sign in tries if float((given - wanted).abs().max()) <= _SUM_TOLERANCE]
    found = [(residual, place, sign) for given, sign in tries if (residual := _residual(wanted, given)) is not None]
    return min(found, default=None)


def _residual(wanted: Tensor, given: Tensor) -> float | None:
    """Largest residual of ``wanted = a·given + b`` with a > 0 as a share of the spread; ``None`` if it is no fit."""
    x, y = (values.double() - values.double().mean() for values in (given, wanted))
    if not float(x.square().sum()) > 0:
        return None
    factor = float((x * y).sum() / x.square().sum())
    residual = float((y - factor * x).abs().max()) / _spread(wanted)
    return residual if factor > 0 and residual <= _FIT_TOLERANCE else None
