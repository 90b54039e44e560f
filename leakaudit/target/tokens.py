"""Models over token ids: which table their integer input indexes, and for which lengths they run.

Claim: a lookup in a parameter or buffer whose indices are the input's own values is the token embedding, so its number
of rows is the vocabulary. It is found by running the model on a text of ones and watching the lookups; positions and
segments are looked up with other numbers. Fails, by saying so, where ids are turned into one-hot rows instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leakaudit.domains.tokens import Tokens
from leakaudit.errors import ModelError, first_line
from leakaudit.target.dispatch import DispatchMode

if TYPE_CHECKING:
    from leakaudit.target.target import Target

LENGTHS = (16, 32, 8, 64, 128, 256, 512)
"""Lengths tried where the file leaves it open."""
_LOOKUPS = {"embedding": (0, 1), "index_select": (0, 2), "index": (0, 1), "gather": (0, 2)}
"""Operators that look rows up, and the positions of table and indices among their arguments."""
_PROBE = 1


class _Watch(DispatchMode):
    """Records the tables in which `count` numbers, all of them `_PROBE`, were looked up."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = [*module.named_parameters(), *module.named_buffers()]
        self.names = {
            tensor.untyped_storage().data_ptr(): (name, len(tensor)) for name, tensor in named if tensor.dim()
        }
        self.count = count
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = _LOOKUPS.get(func.overloadpacket.__name__)
        if place is not None:
            table, indices = args[place[0]], args[place[1]]
            indices = indices[0] if isinstance(indices, list | tuple) else indices
            known = self.names.get(table.untyped_storage().data_ptr())
            if known and isinstance(indices, Tensor) and indices.numel() == self.count and bool((indices == 1).all()):
                self.found.append(known)
        return func(*args, **(kwargs or {}))


def find_table(module: nn.Module, length: int, batch: int, label: str) -> tuple[str, int]:
    """Name and rows of the table that the ids (batch, length) index.

    Raises:
        ModelError: There is none.
    """
    watch = _Watch(module, batch * length)
    with torch.no_grad(), watch:
        module(torch.full((batch, length), _PROBE))
    if not watch.found:
        raise ModelError(
            f"{label}: its integer input indexes no embedding table, so it is not read as token ids",
            "text models look their tokens up in one table (nn.Embedding); export the model that way",
        )
    return watch.found[0]


def with_length(target: Target, length: int) -> Target:
    """The target for sequences of `length` tokens, where the file leaves the length open; itself otherwise.

    Raises:
        ModelError: The model does not run at that length.
    """
    domain = target.domain
    if not isinstance(domain, Tokens) or not domain.any_length or target.native_shape == (length,):
        return target
    changed = replace(
        target,
        native_shape=(length,),
        domain=domain.of_length(length),
        task=target.task.at_places((length,)),
        fidelity=tuple(note for note in target.fidelity if note.id != "LA921"),
    )
    try:
        with torch.no_grad():
            changed.logits(torch.zeros((min(target.batch_sizes or (1,)), 1, 1, length), dtype=torch.long))
    except (ModelError, RuntimeError, IndexError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(
            f"{target.name} does not run on sequences of {length} tokens, the batch's length: {reason}",
            "its positions may be fewer: shorten the sequences, or export the model for that length",
        ) from error
    return changed
