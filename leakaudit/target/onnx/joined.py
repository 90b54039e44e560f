"""Several inputs of a file that are one sample together: the row of a table, perhaps beside a picture, made one input.

A picture, a signal or a volume beside numbers is laid flat in front of them. A model over tables often takes its
categories as integers, each looked up in a table of its own (an embedding), beside a tensor of numbers. Claim: with a
category as one entry per level, of which one is 1, a lookup is a product,

.. math:: E[i] = e_i^\\top E,

with the same outputs and the same gradient of E. So the file is rewritten to take one row of real numbers: a picture's
entries as the file orders them, then the other inputs in their order, a number as one entry, an integer as one per row
of its table. The rewritten file is compared with the one that was read on random rows, by an independent implementation
of ONNX, and refused where they differ.

Integers are followed by `leakaudit.target.onnx.columns`, and a file that uses them otherwise is refused by name. One
integer input whose columns are all looked up alike is a text, and stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from leakaudit.errors import ModelError
from leakaudit.target.onnx.columns import Array, Followed, Lookup, follow, integers_of
from leakaudit.target.onnx.companions import TOKEN_TYPES, fills
from leakaudit.target.onnx.inputs import CHECKED, WIDEST, Joined, Picture, described, picture_of, size_of
from leakaudit.target.onnx.roles import all_inputs
from leakaudit.target.onnx.selfcheck import LIMIT, computed, inference
from leakaudit.target.onnx.values import array, constant_value

ROWS = "leakaudit_rows"
"""The one input of the rewritten file."""
OLDEST = 13
"""Version of the operators from which a file is rewritten: since then axes are inputs, by ONNX's change log."""


def join_inputs(
    model: ModelProto,
    path: str,
    output: str | None = None,
    image_shape: tuple[int, ...] | None = None,
    trusted: bool = False,
) -> Joined | None:
    """Rewrite a model over several inputs to one, in place; ``None`` where there is no need, and it stays as it is.

    Args:
        model: As it was read.
        path: For messages.
        output: The output that is audited; by default the first of real numbers.
        image_shape: Of the picture, channels first, where the file leaves it open.
        trusted: Whether the file may ask for much memory.

    Raises:
        ModelError: It takes several inputs in a way that cannot be rewritten.
    """
    output = output or next(
        (o.name for o in model.graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT), ""
    )
    nodes = _needed(model, output)
    inputs = _used_inputs(model, nodes)
    whole = [info for info in inputs if info.type.tensor_type.elem_type in TOKEN_TYPES]
    if (not whole and len(inputs) < 2) or any(fills(info.name) for info in inputs):
        return None
    picture = picture_of(inputs, path, image_shape, trusted)
    inputs = [info for info in inputs if picture is None or info.name != picture.name]
    sizes = {info.name: size_of(info) for info in inputs}
    constants = _constants(model)
    known = {i.name: integers_of(i.name, size) for i in whole if (size := sizes[i.name]) is not None}
    found = follow(nodes, known, constants)
    if picture is None and len(inputs) == 1 and (found.lost or not known or not _several_tables(found)):
        return None
    _refuse(model, inputs, sizes, found, path)
    joined = replace(described(inputs, sizes, found, path), picture=picture)
    before = ModelProto.FromString(model.SerializeToString())
    _rewrite(model, inputs, sizes, found, joined)
    _check(before, model, output, inputs, joined, path)
    return joined


def _needed(model: ModelProto, output: str) -> list[NodeProto]:
    """The nodes that an output depends on, in order."""
    wanted, kept = {output}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(all_inputs(node))
            kept.append(node)
    return kept[::-1]


def _used_inputs(model: ModelProto, nodes: Sequence[NodeProto]) -> list[ValueInfoProto]:
    """The graph inputs that these nodes use and nothing else gives."""
    stored = {tensor.name for tensor in model.graph.initializer}
    used = {name for node in nodes for name in all_inputs(node)}
    return [info for info in model.graph.input if info.name in used - stored]


def _constants(model: ModelProto) -> dict[str, Array]:
    """Tensors of the file by name, and the small integers that exporters compute from some of them."""
    known = {tensor.name: array(tensor, tensor.name) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = constant_value(node)
        elif node.op_type in FOLDED and node.input and all(name in known for name in node.input):
            given = [known[name] for name in node.input]
            if all(value.dtype.kind == "i" and value.size <= MOST_FOLDED for value in given):
                with suppress(TypeError, ValueError, IndexError):  # older operators, and files that are damaged
                    known[node.output[0]] = FOLDED[node.op_type](*given)
    return known


FOLDED: dict[str, Callable[..., Array]] = {
    "Identity": lambda value: value,
    "Unsqueeze": lambda value, axes: np.expand_dims(value, tuple(axes.ravel().tolist())),
    "Squeeze": lambda value, axes=None: value.squeeze(None if axes is None else tuple(axes.ravel().tolist())),
    "Cast": lambda value: value,
    "Concat": lambda *values: np.concatenate([value.ravel() for value in values]),
}
"""Operators on integers that exporters leave between constants and the views that they steer."""
MOST_FOLDED = 10_000
"""Integers of a tensor that is computed so, at most; chosen, far above the columns of a table."""


def _several_tables(found: Followed) -> bool:
    """Whether not all integers are looked up alike, as the tokens of a text are."""
    return len({tuple(sorted(tables)) for tables in found.tables_of().values()}) > 1


def _refuse(
    model: ModelProto,
    inputs: Sequence[ValueInfoProto],
    sizes: dict[str, tuple[int, ...] | None],
    found: Followed,
    path: str,
) -> None:
    names = ", ".join(repr(info.name) for info in inputs)
    what = f"{path} has {len(inputs)} inputs of columns ({names})"
    way = "export numbers (N, D) and integers (N, C) that are looked up in embeddings, or a single input"
    for info in inputs:
        kind = info.type.tensor_type.elem_type
        if sizes[info.name] is None or kind not in (TensorProto.FLOAT, *TOKEN_TYPES):
            raise ModelError(f"{what}; {info.name!r} is no (N, C) of fixed C: texts beside them are not", way)
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < OLDEST:
        raise ModelError(f"{what}, in version {version} of the operators", f"export it with opset {OLDEST} or later")
    if found.lost:
        node = found.lost[0]
        raise ModelError(f"{what}, which node {node.name or node.op_type!r} ({node.op_type}) does not look up", way)


@dataclass(eq=False)
class _Writer:
    """Makes nodes and the constants that they need."""

    nodes: list[NodeProto]
    stored: list[TensorProto]

    def constant(self, *values: int) -> str:
        """Name of a new tensor of integers."""
        name = f"{ROWS}_constant_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **settings: Any) -> str:
        """Name of what a new node makes."""
        output = output or f"{ROWS}_value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], f"{output}_{kind}", **settings))
        return output

    def picture(self, picture: Picture) -> None:
        """The first entries of the rows as a picture (N, *native)."""
        flat = self.entries(0, picture.size)
        self.node("Reshape", [flat, self.constant(-1, *picture.native)], picture.name)

    def entries(self, first: int, stop: int, output: str = "") -> str:
        """Some entries of the rows (N, stop - first)."""
        return self.node("Slice", [ROWS, *(self.constant(n) for n in (first, stop, 1))], output)


def _rewrite(
    model: ModelProto,
    inputs: Sequence[ValueInfoProto],
    sizes: dict[str, tuple[int, ...] | None],
    found: Followed,
    joined: Joined,
) -> None:
    """Make one input of all; integers themselves are left for what only asks for their shape."""
    ends = np.cumsum([joined.before, *(column.width for column in joined.columns)]).tolist()
    writer = _Writer([], [])
    if joined.picture is not None:
        writer.picture(joined.picture)
    for info, part in zip(inputs, joined.parts, strict=True):
        first, size = ends[part.first], sizes[info.name] or ()
        held = writer.entries(first, first + (part.stop - part.first), info.name if size else "")
        if not size:
            writer.node("Squeeze", [held, writer.constant(1)], info.name)
    starts = {part.name: part.first for part in joined.parts}
    lookups = {look.node.output[0]: look for look in found.lookups}
    for node in model.graph.node:
        look = lookups.get(node.output[0]) if node.output else None
        if look is None:
            writer.nodes.append(node)
            continue
        places = [(starts[e.input] + e.place, e.offset) for e in look.integers.flat]
        _product(writer, look, [(ends[place], ends[place + 1], offset) for place, offset in places])
    graph, first_dim = model.graph, inputs[0].type.tensor_type.shape.dim[0]
    rows = helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, [None, ends[-1]])
    rows.type.tensor_type.shape.dim[0].CopyFrom(first_dim)
    taken = {*starts, *([joined.picture.name] if joined.picture else [])}
    others = [info for info in graph.input if info.name not in taken]
    for kept, values in ((graph.node, writer.nodes), (graph.input, [rows, *others])):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del kept[:]
        kept.extend(copies)
    graph.initializer.extend(writer.stored)
    del graph.value_info[:]


def _product(writer: _Writer, look: Lookup, places: Sequence[tuple[int, int, int]]) -> None:
    """A lookup as products of the entries of its integers with the table."""
    output, shape = look.node.output[0], look.integers.shape
    made = []
    for first, stop, offset in places:
        entries = writer.entries(first, stop)
        before, behind = offset, look.rows - offset - (stop - first)
        if before or behind:
            entries = writer.node("Pad", [entries, writer.constant(0, before, 0, behind)])
        made.append(writer.node("MatMul", [entries, look.table], "" if shape else output))
    if not shape:
        return
    apart = [writer.node("Unsqueeze", [one, writer.constant(1)]) for one in made]
    whole = output if len(shape) == 1 else ""
    joined = writer.node("Concat", apart, whole, axis=1)
    if not whole:
        writer.node("Reshape", [joined, writer.constant(-1, *shape, look.width)], output)


def _check(
    before: ModelProto,
    after: ModelProto,
    output: str,
    inputs: Sequence[ValueInfoProto],
    joined: Joined,
    path: str,
) -> None:
    """Compare the output on random rows.

    Raises:
        ModelError: It differs, or nothing here can run the file.
    """
    fixed = inputs[0].type.tensor_type.shape.dim[0].dim_value
    if fixed > WIDEST:
        raise ModelError(f"{path} takes batches of {fixed} rows alone", "export it with a dynamic batch axis")
    feeds, rows = _random_rows(inputs, joined, fixed or CHECKED)
    expected, reference = computed(inference(before, output, [*feeds]), feeds)
    found, why = computed(inference(after, output, [ROWS]), {ROWS: rows})
    if expected is None or found is None:
        raise ModelError(
            f"{path}: its inputs cannot be joined and compared ({reference if expected is None else why})",
            "export the model with a single input",
        )
    apart = float(np.abs(np.asarray(expected, float) - np.asarray(found, float)).max())
    if not apart <= LIMIT * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"{path}: with its inputs joined, {output!r} differs by {apart:.3g} ({reference})",
            "please report the file; meanwhile export the model with a single input",
        )


def _random_rows(inputs: Sequence[ValueInfoProto], joined: Joined, count: int) -> tuple[dict[str, Array], Array]:
    """Samples as the file's own inputs by name, and as rows (count, W)."""
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    rows: list[Array] = []
    if joined.picture is not None:
        rows.append(generator.normal(size=(count, joined.picture.size)).astype(np.float32))
        feeds[joined.picture.name] = rows[0].reshape(count, *joined.picture.native)
    for info, part in zip(inputs, joined.parts, strict=True):
        columns = joined.columns[part.first : part.stop]
        shape = (count,) if len(info.type.tensor_type.shape.dim) == 1 else (count, len(columns))
        if all(column.kind == "number" for column in columns):
            numbers = generator.normal(size=(count, len(columns))).astype(np.float32)
            feeds[info.name], entries = numbers.reshape(shape), [numbers]
        else:
            levels = [generator.integers(0, column.width, count) for column in columns]
            kind = np.dtype(TOKEN_TYPES[info.type.tensor_type.elem_type])
            feeds[info.name] = np.stack(levels, 1).astype(kind).reshape(shape)
            entries = [np.eye(c.width, dtype=np.float32)[chosen] for c, chosen in zip(columns, levels, strict=True)]
        rows += entries
    return feeds, np.concatenate(rows, 1)
