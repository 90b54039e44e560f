"""Which output of a module with several is audited: a tuple, a mapping or a dataclass of tensors becomes one of them.

The chosen one, ``logits`` where there is one of this name (models of transformers, and of peft around them), or the
first where all hold numbers per sample, as of an ONNX file. The module keeps its names; a hook takes the output.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leakaudit.errors import ModelError, UsageError
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.probe import run
from leakaudit.target.target import FidelityNote

USUAL = "logits"
"""Name of the output that is meant where nothing else is said, by convention of transformers and torchvision."""


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
) -> list[FidelityNote]:
    """Have a module return one tensor, in place, and say which of several it is.

    Args:
        module: In eval mode.
        mode: Of the client; some modules return further heads in train mode alone.
        chosen: Name or position of the output that the user asked for.
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
            raise UsageError(f"{label} returns one tensor, and no output {chosen!r}", "leave out --output")
        return []
    name = _chosen(several, chosen, label) if chosen is not None else _usual(several, last, label)
    module.register_forward_hook(partial(_taken, name))
    others = [other for other in several if other != name]
    if not others:
        return []
    text = (
        f"the model returns {len(several)} tensors: {', '.join(several)}; {name} is audited, and the update is that of "
        "its loss alone, without what only trains the others"
    )
    return [FidelityNote("LA911", text, "choose with --output NAME")]


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
