"""The inputs beside the token ids: a mask becomes all ones, segments all zeros, positions 0 … L-1, inside the graph.

That is what a client feeds for one sequence without padding. Other further inputs are left, and refused by name.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

TOKEN_TYPES: dict[int, Literal["int32", "int64"]] = {TensorProto.INT32: "int32", TensorProto.INT64: "int64"}
"""Types of an input that are read as token ids."""


def fill_companions(model: ModelProto) -> dict[str, str]:
    """Replace masks and segments beside token ids by constants of their shape; changes ``model`` in place.

    Returns:
        What fills each replaced input, by its name: ``ones``, ``zeros`` or `POSITIONS`.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in stored]
    filled: dict[str, str] = {info.name: fill for info in inputs if (fill := fills(info.name)) is not None}
    rest = [info for info in inputs if info.name not in filled]
    ids = [info for info in rest if info.type.tensor_type.elem_type in TOKEN_TYPES]
    if not filled or len(ids) != 1:
        return {}
    nodes: list[Any] = [helper.make_node("Shape", [ids[0].name], [_SHAPE], _SHAPE)]
    for info in inputs:
        if info.name in filled:
            nodes += _positions(info) if filled[info.name] == POSITIONS else [_constant(info, filled[info.name])]
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [info for info in graph.input if info.name not in filled]
    del graph.input[:]
    graph.input.extend(kept)
    return filled


_SHAPE = "leakaudit/shape_of_ids"


POSITIONS = "positions 0 to L - 1"


def fills(name: str) -> str | None:
    """What an input of this name is filled with; the names are those of Hugging Face and of Google's BERT."""
    name = name.lower()
    if "mask" in name:
        return "ones"
    if re.search(r"position_?ids?|pos_?ids?$", name):
        return POSITIONS
    return "zeros" if "token_type" in name or "segment" in name else None


def _positions(info: ValueInfoProto) -> list[Any]:
    """Nodes that number the tokens of each sequence."""
    label = f"leakaudit/{info.name}"

    def whole(name: str, *values: int) -> Any:
        dims = [] if name != "axis" else [1]
        value = helper.make_tensor("value", TensorProto.INT64, dims, list(values))
        return helper.make_node("Constant", [], [f"{label}/{name}"], f"{label}/{name}", value=value)

    def node(kind: str, inputs: list[str], output: str, **settings: Any) -> Any:
        return helper.make_node(kind, inputs, [output], f"{label}/{kind}", **settings)

    return [
        whole("first", 0),
        whole("step", 1),
        node("Gather", [_SHAPE, f"{label}/step"], f"{label}/length"),
        node("Range", [f"{label}/first", f"{label}/length", f"{label}/step"], f"{label}/row"),
        node("Expand", [f"{label}/row", _SHAPE], f"{label}/rows"),
        node("Cast", [f"{label}/rows"], info.name, to=info.type.tensor_type.elem_type),
    ]


def _constant(info: ValueInfoProto, fill: str) -> Any:
    kind = info.type.tensor_type.elem_type
    value = helper.make_tensor("value", kind, [1], [1 if fill == "ones" else 0])
    return helper.make_node("ConstantOfShape", [_SHAPE], [info.name], f"leakaudit/{info.name}", value=value)
