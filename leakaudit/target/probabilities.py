r"""Models that end in probabilities: the logits in front of them, found by values, whatever the head was spelt as.

Training code puts its loss on logits :math:`z`; a model that is handed over often ends in :math:`p = softmax(z)`, spelt
out, clipped, mixed with the uniform distribution, scaled to per cent, or as :math:`[1 - p, p]` of one sigmoid. The loss
of softmax outputs taken for logits has another gradient (measured: off by 80 %).

Claim: the logits are the result of a call inside the forward (`leakaudit.target.ending` finds it), and the module whose
class is exchanged returns them. Where there is none, the logarithm of the normalised outputs stands for the logits:
cross-entropy on it is the negative log-likelihood of the outputs. Several outputs that are each a sigmoid are a label
each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leakaudit.errors import ModelError
from leakaudit.target.ending import SIZES, Head, Watch, find_ending, results_of
from leakaudit.target.fitting import is_sigmoid, probabilities
from leakaudit.target.probe import sample
from leakaudit.target.target import FidelityNote

_TINY = 1e-12
"""Below the smallest probability that a head clips to (1e-7 and larger are in use)."""
STATE = "leakaudit_head"


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
        with Watch(len(x), (head.outputs,), head.place) as watch:
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
            return dict.fromkeys((False, True), find_ending(module, sizes or SIZES, native, vocabulary))
        return {mode: find_ending(module.train(mode), sizes or SIZES, native, vocabulary) for mode in (False, True)}
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
    seen = results_of(module, sample(batch, native, 10, vocabulary, (-1.0, 2.0)), math.prod(returned))
    if seen is None:
        return
    flat, kept = seen
    outputs = flat.reshape(batch, *returned)
    by_class = outputs.movedim(1, -1) if tuple(returned[1:]) == places else outputs
    rows = by_class.reshape(-1, by_class.shape[-1])
    count = len(rows) // batch
    ends = probabilities(rows) if rows.shape[1] > 1 else any(is_sigmoid(flat, value) for value in kept)
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
