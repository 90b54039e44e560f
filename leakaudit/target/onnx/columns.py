"""Which integer of which input a value holds, followed through views, until it is looked up in a table.

A value is described by an array of :class:`Integer`, one for each of its entries beside the batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from leakaudit.target.onnx.values import attributes

Array = np.ndarray[Any, Any]
MOST_INTEGERS = 1_000_000
"""Integers that are followed through all nodes of a file, at most; chosen, against files that are made to exhaust."""
MOST_CHOSEN = 10_000
"""Integers that one node may pick, at most; chosen, far above the columns of a table."""


class NotFollowed(ValueError):
    """A node does something with integers that is no view of them."""


@dataclass(frozen=True)
class Integer:
    """One integer of a sample.

    Args:
        input: The graph input that it stands in.
        place: Its position there.
        offset: What was added to it.
    """

    input: str
    place: int
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Lookup:
    """A node that looks integers up.

    Args:
        node: The node.
        table: Name of the tensor whose rows are looked up.
        rows: How many it has.
        width: How long they are.
        integers: What is looked up, an array of `Integer`.
    """

    node: NodeProto
    table: str
    rows: int
    width: int
    integers: Array


@dataclass(frozen=True, eq=False)
class Followed:
    """What becomes of the integers of a graph.

    Args:
        lookups: In the order of the nodes.
        lost: Nodes that use integers in another way.
    """

    lookups: list[Lookup] = field(default_factory=list)
    lost: list[NodeProto] = field(default_factory=list)

    def tables_of(self) -> dict[Integer, set[tuple[str, int]]]:
        """By integer of an input, the tables that it is looked up in and what is added before."""
        found: dict[Integer, set[tuple[str, int]]] = {}
        for look in self.lookups:
            for entry in look.integers.flat:
                found.setdefault(replace(entry, offset=0), set()).add((look.table, entry.offset))
        return found


def integers_of(name: str, shape: Sequence[int]) -> Array:
    """The integers of an input whose samples have this shape: () or (C,)."""
    count = int(np.prod(shape, dtype=int))
    return _objects([Integer(name, place) for place in range(count)], tuple(shape))


def follow(nodes: Sequence[NodeProto], values: Mapping[str, Array], constants: Mapping[str, Array]) -> Followed:
    """Follow the integers of inputs through a graph.

    Args:
        nodes: In order of execution.
        values: By graph input, from :func:`integers_of`.
        constants: Tensors of the file by name.
    """
    known, result, handled = dict(values), Followed(), 0
    for node in nodes:
        if not any(name in known for name in node.input) or node.op_type == "Shape":
            continue
        handled += sum(known[name].size for name in node.input if name in known)
        if handled > MOST_INTEGERS:
            result.lost.append(node)
            break
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is not None and attributes(node).get("axis", 0) == 0 and table.ndim == 2 and table.dtype.kind == "f":
            result.lookups.append(Lookup(node, node.input[0], len(table), table.shape[1], known[node.input[1]]))
            continue
        view = VIEWS.get(node.op_type)
        try:
            if view is None:
                raise NotFollowed(node.op_type)
            known.update(zip(node.output, view(node, known, constants), strict=True))
        except (NotFollowed, KeyError, IndexError, ValueError, TypeError):
            result.lost.append(node)
    return result


def _objects(items: Sequence[Integer], shape: tuple[int, ...]) -> Array:
    made = np.empty(len(items), dtype=object)
    made[:] = items
    return made.reshape(shape)


def _axis(axis: int, rank: int) -> int:
    """An axis beside that of the batch, of samples with so many axes.

    Raises:
        NotFollowed: It is that of the batch.
    """
    axis = axis + rank + 1 if axis < 0 else axis
    if axis < 1:
        raise NotFollowed("the batch axis")
    return axis - 1


def _fixed(node: NodeProto, position: int, constants: Mapping[str, Array]) -> list[int] | None:
    """The numbers of an input of a node that is a constant; ``None`` where the node has none."""
    if len(node.input) <= position or not node.input[position]:
        return None
    return [int(value) for value in constants[node.input[position]].ravel()]


def _same(node: NodeProto, known: Mapping[str, Array], _: Mapping[str, Array]) -> list[Array]:
    return [known[node.input[0]]]


def _gather(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    held, chosen = known[node.input[0]], constants[node.input[1]]
    if chosen.size > MOST_CHOSEN:
        raise NotFollowed("too many")
    taken = held.take(chosen.ravel().astype(int), _axis(attributes(node).get("axis", 0), held.ndim))
    axis = _axis(attributes(node).get("axis", 0), held.ndim)
    return [taken.reshape((*held.shape[:axis], *chosen.shape, *held.shape[axis + 1 :]))]


def _slice(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    held = known[node.input[0]]
    starts, ends = _fixed(node, 1, constants) or [], _fixed(node, 2, constants) or []
    axes = _fixed(node, 3, constants) or list(range(len(starts)))
    steps = _fixed(node, 4, constants) or [1] * len(starts)
    cut = [slice(None)] * held.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis == 0 and (start, step) == (0, 1) and end >= 2**31 - 1:  # x[:, …], all of the batch
            continue
        cut[_axis(axis, held.ndim)] = slice(start, end if end < 2**31 - 1 else None, step)
    return [held[tuple(cut)]]


def _split(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    held = known[node.input[0]]
    axis = _axis(attributes(node).get("axis", 0), held.ndim)
    sizes = _fixed(node, 1, constants)
    return np.array_split(held, np.cumsum(sizes)[:-1] if sizes else len(node.output), axis)


def _squeeze(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    held, axes = known[node.input[0]], _fixed(node, 1, constants)
    return [held.squeeze() if axes is None else held.squeeze(tuple(_axis(axis, held.ndim) for axis in axes))]


def _unsqueeze(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    held, axes = known[node.input[0]], _fixed(node, 1, constants) or []
    return [np.expand_dims(held, tuple(_axis(axis, held.ndim + len(axes)) for axis in axes))]


def _reshape(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    held, shape = known[node.input[0]], constants[node.input[1]].ravel().tolist()
    rest = [held.shape[place] if size == 0 else size for place, size in enumerate(shape[1:])]
    made = held.reshape(rest)
    if shape[0] not in (0, -1) or (shape[0] == -1 and -1 in rest):
        raise NotFollowed("another batch axis")
    return [made]


def _flatten(node: NodeProto, known: Mapping[str, Array], _: Mapping[str, Array]) -> list[Array]:
    if attributes(node).get("axis", 1) != 1:
        raise NotFollowed("another axis")
    return [known[node.input[0]].reshape(-1)]


def _concat(node: NodeProto, known: Mapping[str, Array], _: Mapping[str, Array]) -> list[Array]:
    parts = [known[name] for name in node.input]
    return [np.concatenate(parts, _axis(attributes(node)["axis"], parts[0].ndim))]


def _add(node: NodeProto, known: Mapping[str, Array], constants: Mapping[str, Array]) -> list[Array]:
    first, second = node.input
    held, added = (known[first], constants[second]) if first in known else (known[second], constants[first])
    if added.ndim > held.ndim:
        added = added.reshape(added.shape[1:] if len(added) == 1 else (-1,))
    offsets = np.broadcast_to(added, held.shape)
    items = [replace(e, offset=e.offset + int(more)) for e, more in zip(held.flat, offsets.flat, strict=True)]
    return [_objects(items, held.shape)]


VIEWS: dict[str, Callable[[NodeProto, Mapping[str, Array], Mapping[str, Array]], list[Array]]] = {
    "Identity": _same,
    "Cast": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Concat": _concat,
    "Add": _add,
}
"""By operator, from a node and what is known to the integers of its outputs."""
