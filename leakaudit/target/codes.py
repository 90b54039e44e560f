"""Integers that a module looks up in embeddings, as entries of a row: a lookup becomes a product, as in an ONNX file.

Claim: with a category as one entry per level, of which one is 1, ``E[i] = e_i^T E``, with the same outputs and the same
gradient of E (`leakaudit.target.onnx.joined`). A module is called with :class:`Codes` in place of integers: tensors
that carry for each entry which column of a sample it stands for, and what was added to it. Views of them carry the
same; where they index a table, the product of the column's entries with its rows is taken, and any other use is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from leakaudit.errors import ModelError

_SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_"})
"""Operators that add offsets to integers, by definition of torch."""
_VIEWS = frozenset(
    {"__getitem__", "select", "slice", "squeeze", "unsqueeze", "view", "reshape", "flatten", "unbind", "split", "chunk"}
    | {"split_with_sizes", "cat", "concat", "stack", "to", "long", "int", "_to_copy", "contiguous", "expand", "clone"}
    | {"narrow", "index_select", "index", "detach", "detach_", "alias", "_reshape_alias", "_unsafe_view", "view_as"}
)
"""Operators that move integers and leave them as they are, by definition of torch."""
_JOINS = frozenset({"cat", "concat", "stack"})
"""Those of them that take several tensors."""
_FACTS = frozenset(
    {"size", "sym_size", "dim", "ndimension", "numel", "__len__", "__get__", "stride", "storage_offset", "get_device"}
    | {"is_floating_point", "is_complex", "is_contiguous", "element_size", "_assert_tensor_metadata", "__hash__"}
)
"""What is asked of a tensor without its values, by definition of torch."""
Reading = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]
"""From columns, what is added to each, and a table, to the rows that are looked up (B, n, E)."""


class Codes(Tensor):
    """Integers (B, …) that stand for columns of a sample; their values are what was added to them."""

    place: Tensor
    reading: Reading

    @classmethod
    def of(cls, place: Tensor, reading: Reading) -> Codes:
        """Integers of these columns (B, …), with nothing added."""
        return _wrapped(torch.zeros_like(place), place, reading)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Follow views, take products for lookups, refuse the rest."""
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", func)).partition(".")[0]
        if name == "embedding":
            return _looked_up(args, kwargs)
        if name == "__iter__":
            return iter(args[0].unbind(0))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            plain = not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))
            if plain and name in _FACTS:
                return result
            if plain or name not in _VIEWS | _SUMS or _mixed(name, args, kwargs):
                raise ModelError(
                    f"integers are used by {name!r}, not only looked up in embeddings",
                    "export the model with integers that are looked up alone, or give numbers",
                )
            moved = [tree_map(_place_of(name in _SUMS), given) for given in (args, kwargs)]
            places = func(*moved[0], **moved[1])
        reading = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Codes)).reading
        return tree_map(lambda value, place: _wrapped(value, place, reading), result, places)


def _mixed(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether columns are added to each other, scaled, or stand beside plain integers: no column is what comes out."""
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = sum(isinstance(leaf, Codes) for leaf in leaves)
    if name in _SUMS:
        return ours > 1 or kwargs.get("alpha", 1) != 1
    return name in _JOINS and ours < len(leaves)


def _wrapped(value: Tensor, place: Tensor, reading: Reading) -> Codes:
    codes = value.as_subclass(Codes)
    codes.place, codes.reading = place.as_subclass(Tensor), reading
    return codes


def _place_of(summed: bool) -> Callable[[Any], Any]:
    """What stands for an argument where columns are moved in place of integers."""

    def stand_in(value: Any) -> Any:
        if isinstance(value, Codes):
            return value.place
        if summed:
            return torch.zeros_like(value) if isinstance(value, Tensor) else 0 if isinstance(value, int) else value
        return value

    return stand_in


def _looked_up(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Rows of a table by codes, of `torch.nn.functional.embedding` or torch's own operator, whose table comes first."""
    names = ("first", "second", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq")
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    tensors = [value for value in given.values() if isinstance(value, Tensor)]
    codes = next((value for value in tensors if isinstance(value, Codes)), None)
    table = next((value for value in tensors if not isinstance(value, Codes)), None)
    padding, norm = given.get("padding_idx"), given.get("max_norm")
    changed = norm not in (None, False) or bool(given.get("scale_grad_by_freq"))  # of torch's operator both are there
    if codes is None or table is None or changed:
        raise ModelError("integers are looked up in a table that is no plain embedding", "use nn.Embedding")
    with torch._C.DisableTorchFunctionSubclass():
        place, added = codes.place, codes.as_subclass(Tensor)
        if codes.dim() < 1 or not torch.equal(place, place[:1].expand_as(place)):
            raise ModelError("integers of several samples are mixed", "keep the batch axis first")
        if padding not in (None, -1) and torch.is_grad_enabled():  # its row has no gradient
            kept = torch.arange(len(table), device=table.device) != padding % len(table)
            table = torch.where(kept[:, None], table, table.detach())
        rows = codes.reading(place[0].flatten().tolist(), added[0].flatten().tolist(), table)
        return rows.reshape(len(rows), *codes.shape[1:], table.shape[1])


@dataclass(frozen=True, eq=False)
class Blocks:
    """Lookups as products.

    Args:
        row: Samples (B, D).
        ends: First entry of each column in them, and the one behind its last.
    """

    row: Tensor
    ends: Sequence[tuple[int, int]]

    def __call__(self, places: Sequence[int], added: Sequence[int], table: Tensor) -> Tensor:
        """Rows (B, n, E)."""
        made = []
        for place, offset in zip(places, added, strict=True):
            first, stop = self.ends[place]
            made.append(self.row[:, first:stop] @ table[offset : offset + stop - first])
        return torch.stack(made, 1)


@dataclass(eq=False)
class Looks:
    """Notes which column is looked up in which table; gives the first row that each may mean.

    Args:
        batch: Samples of the run that it watches.
        found: By column, the tables by address, with what is added before and how many rows they have.
    """

    batch: int
    found: dict[int, set[tuple[int, int, int]]] = field(default_factory=dict)

    def __call__(self, places: Sequence[int], added: Sequence[int], table: Tensor) -> Tensor:
        """Rows (B, n, E)."""
        for place, offset in zip(places, added, strict=True):
            self.found.setdefault(place, set()).add((table.data_ptr(), offset, len(table)))
        return table[list(added)].expand(self.batch, -1, -1)

    def levels(self, count: int) -> tuple[int, ...] | None:
        """How many levels each of so many columns has; ``None`` where one is never looked up, or nothing tells it."""
        levels = []
        for place in range(count):
            uses = self.found.get(place, set())
            if not uses or len({table for table, _, _ in uses}) < len(uses):
                return None
            levels.append(min(self._end(table, offset, rows) - offset for table, offset, rows in uses))
        return tuple(levels) if all(level > 0 for level in levels) else None

    def _end(self, table: int, offset: int, rows: int) -> int:
        """Where the levels of a column end in a table: where those of the next begin."""
        others = [other for uses in self.found.values() for t, other, _ in uses if t == table and other > offset]
        return min([rows, *others])
