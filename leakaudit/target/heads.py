"""Which output of a module with several is audited: a tuple, a mapping or a dataclass of tensors becomes one of them.

The chosen one, ``logits`` where there is one of this name (models of transformers, and of peft around them), or the
first where all hold numbers per sample, as of an ONNX file. Several that a stated loss is over (``logits+0.3*aux``)
become one tensor, one after the other. The module keeps its names; a hook takes the outputs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leakaudit.errors import ModelError, UsageError
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.outputs import check_outputs, maps
from leakaudit.target.probabilities import probable, refuse_probabilities
from leakaudit.target.probe import run
from leakaudit.target.target import FidelityNote
from leakaudit.tasks.base import Task
from leakaudit.tasks.heads import SeveralHeads
from leakaudit.tasks.heads_text import FORM, HeadTerm, parse_heads

USUAL = "logits"
"""Name of the output that is meant where nothing else is said, by convention of transformers and torchvision."""


@dataclass(frozen=True)
class Heads:
    """Several outputs that a stated loss is over, as a module returns them: one after the other.

    Args:
        terms: Their names and weights, the main one first.
        shapes: Of the outputs of each for one sample.
    """

    terms: tuple[HeadTerm, ...]
    shapes: tuple[tuple[int, ...], ...]

    def over(self, task: Task) -> SeveralHeads:
        """The sum of a task's loss over them."""
        return SeveralHeads(task, self.terms, self.shapes)

    def windows(self) -> list[tuple[int, int]]:
        """Which of the numbers per sample each has, from the first to behind the last."""
        ends = [sum(map(prod, self.shapes[:place])) for place in range(len(self.shapes) + 1)]
        return list(pairwise(ends))

    def checked(self, batch: int, label: str, places: Sequence[int], ids: int) -> tuple[int, ...]:
        """The shape of the main head's outputs for one sample.

        Raises:
            ModelError: One of them is no scores, see `leakaudit.target.outputs.check_outputs`.
        """
        for term, shape in zip(self.terms, self.shapes, strict=True):
            check_outputs((batch, *shape), batch, f"output {term.name!r} of {label}", places, ids)
        return self.shapes[0]

    def refuse_probabilities(
        self,
        module: nn.Module,
        sizes: tuple[int, ...] | None,
        native: tuple[int, ...],
        vocabulary: int | None,
        places: tuple[int, ...],
        label: str,
    ) -> None:
        """Refuse heads that end in a softmax or a sigmoid: their logits are not looked for.

        Raises:
            ModelError: One does.
        """
        batch = sizes[0] if sizes else 2
        for term, shape, window in zip(self.terms, self.shapes, self.windows(), strict=True):
            called = f"output {term.name!r} of {label}"
            hook = module.register_forward_hook(partial(_seen_through, window))
            try:
                if maps(shape, places):
                    refuse_probabilities(module, batch, native, vocabulary, shape, places, called)
                elif probable(module, sizes, native, vocabulary):
                    raise ModelError(
                        f"{called} holds probabilities, expected logits: a loss over several outputs is computed on "
                        "these",
                        "pass a model whose outputs are logits, or choose one output with --output NAME",
                    )
            finally:
                hook.remove()

    def note(self, others: Sequence[str], what: str) -> FidelityNote:
        """What is trained of several outputs, and what is left out.

        Args:
            others: Outputs that the loss is not over.
            what: That has them.
        """
        trained = " + ".join(term.describe() for term in self.terms)
        text = f"{what} has {len(self.terms) + len(others)} outputs; the loss is over {trained}, trained together"
        text += f"; {', '.join(others)} {'is' if len(others) == 1 else 'are'} left out" if others else ""
        return FidelityNote("LA911", text, "choose others with --output" if others else "")


def outputs_of(result: Any) -> dict[str, Tensor] | None:
    """The tensors that a module returns, by name, else by position; ``None`` where it returns a tensor alone."""
    if isinstance(result, Tensor):
        return None
    if isinstance(result, Mapping):
        named = {str(name): value for name, value in result.items()}
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        named = dict(zip(result._fields, result, strict=True))
    elif dataclasses.is_dataclass(result):
        named = {item.name: getattr(result, item.name) for item in dataclasses.fields(result)}
    elif isinstance(result, list | tuple):
        named = {str(place): value for place, value in enumerate(result)}
    else:
        named = {}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def with_one_output(
    module: nn.Module,
    mode: Literal["eval", "train"],
    chosen: str | None,
    label: str,
    *facts: Any,
) -> tuple[list[FidelityNote], Heads | None]:
    """Have a module return one tensor, in place, and say which of several it is, or which heads it holds.

    Args:
        module: In eval mode.
        mode: Of the client; some modules return further heads in train mode alone.
        chosen: Name or position of the output that the user asked for, or a sum of several.
        label: For messages.
        *facts: Batch size and native shape of sample inputs, their seed and vocabulary, as of
            `leakaudit.target.probe.run`.

    Raises:
        UsageError: There is no such output.
        ModelError: There are several, and nothing says which one holds scores.
    """
    results = [run(module, *facts), *([_in_train_mode(module, *facts)] if mode == "train" else [])]
    each = [None if result is None else outputs_of(result) for result in results]
    ran = [(result, found) for result, found in zip(results, each, strict=True) if found is not None]
    last, several = ran[-1] if ran else (None, None)  # heads of train mode alone among them
    if several is None:
        if chosen is not None:
            way = "leave out --output" + ("" if mode == "train" else ", or audit the train mode if it has more there")
            raise UsageError(f"{label} returns one tensor, and no output {chosen!r}", way)
        return [], None
    terms = None if chosen is None else parse_heads(chosen, list(several), label)
    if terms is not None:
        heads = Heads(terms, tuple(_shape(several[term.name], term.name, facts[0], label) for term in terms))
        module.register_forward_hook(partial(_joined, heads))
        return [heads.note([name for name in several if name not in [t.name for t in terms]], "the model")], heads
    name = _chosen(several, chosen, label) if chosen is not None else _usual(several, last, label)
    module.register_forward_hook(partial(_taken, name))
    others = [other for other in several if other != name]
    if not others:
        return [], None
    text = (
        f"the model returns {len(several)} tensors: {', '.join(several)}; {name} is audited, and the update is that of "
        "its loss alone, without what only trains the others"
    )
    return [FidelityNote("LA911", text, f"choose with --output {FORM}")], None


def _shape(value: Tensor, name: str, batch: int, label: str) -> tuple[int, ...]:
    """The shape of an output for one sample.

    Raises:
        UsageError: It has no numbers for each.
    """
    if not value.is_floating_point() or value.shape[:1] != (batch,) or not value[0].numel():
        raise UsageError(
            f"output {name!r} of {label} has shape {list(value.shape)} of {value.dtype} for {batch} samples, expected "
            "real numbers for each sample",
            "leave it out of --output",
        )
    return tuple(value.shape[1:]) or (1,)


def _chosen(several: Mapping[str, Tensor], chosen: str, label: str) -> str:
    """The name of the output that was asked for by name or position."""
    if chosen in several:
        return chosen
    if chosen.isdecimal() and int(chosen) < len(several):
        return list(several)[int(chosen)]
    raise UsageError(f"{label} has no output {chosen!r}; it has {', '.join(several) or 'none'}", "correct --output")


def _usual(several: Mapping[str, Tensor], result: Any, label: str) -> str:
    """The name of the output that is meant where nobody says one."""
    if USUAL in several:
        return USUAL
    if several and all(value.dim() == 2 for value in several.values()):
        return next(iter(several))
    kind = "a mapping" if isinstance(result, Mapping) else type(result).__name__
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in several.items())
    raise ModelError(
        f"{label} returns {kind}, expected logits: detection and models with several heads are not audited as a whole",
        f"choose one that holds scores with --output NAME: {shapes}" if several else "wrap it to return logits",
    )


def _taken(name: str, module: nn.Module, inputs: tuple[Any, ...], result: Any) -> Any:
    """The hook: the output of a name, of whatever a forward returned."""
    several = outputs_of(result)
    if several is not None and name not in several:
        raise ModelError(
            f"the model returns no {name} in {'train' if module.training else 'eval'} mode",
            f"choose one that it always returns with --output NAME: {', '.join(several) or 'none'}",
        )
    return result if several is None else several[name]


def _joined(heads: Heads, module: nn.Module, inputs: tuple[Any, ...], result: Any) -> Tensor:
    """The hook: the outputs of several names one after the other (B, sum of their sizes).

    A head that the module has in train mode alone is zero in eval mode, which is only looked at while it is loaded, and
    where the main head predicts.
    """
    main = heads.terms[0].name
    several = outputs_of(result)
    several = {main: result} if several is None else several
    absent = [term.name for term in heads.terms if term.name not in several]
    if absent and (module.training or main in absent):
        raise ModelError(
            f"the model returns no {absent[0]} in {'train' if module.training else 'eval'} mode",
            f"choose outputs that it always returns with --output: {', '.join(several)}",
        )
    rows = several[main].flatten(1) if several[main].dim() > 1 else several[main][:, None]
    parts = [
        rows.new_zeros(len(rows), prod(shape)) if term.name in absent else several[term.name].reshape(len(rows), -1)
        for term, shape in zip(heads.terms, heads.shapes, strict=True)
    ]
    return torch.cat(parts, 1)


def _seen_through(window: tuple[int, int], module: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> Tensor:
    """The hook: some of the numbers of each sample."""
    return result.reshape(len(result), -1)[:, slice(*window)]


def _in_train_mode(module: nn.Module, *facts: Any) -> Any:
    """What a copy of a module returns in train mode; ``None`` where it does not run there, which is refused later."""
    state = torch.get_rng_state()
    try:
        return run(copy.deepcopy(module).train(), *facts)
    except (RuntimeError, ValueError) as error:
        refuse_exhaustion(error)
        return None
    finally:
        torch.set_rng_state(state)
