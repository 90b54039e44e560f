"""Which tensors of an ONNX file the client trains.

The file does not say. What is known: weights sit at known inputs of known operators, running statistics, limits and
masks at others; torch writes weights as initialisers, some converters as Constant nodes. The rules, in order:

1. A tensor at a place that is never trained (BatchNorm mean and variance, Clip limits, a dropout ratio, …) is a buffer.
2. A subtraction, division, … of the raw input is its normalisation, not a layer: a buffer.
3. An additive mask (only 0 and large negative numbers) is a buffer.
4. Any other initialiser with at least one axis and more than one entry, or in the place of a weight, is trained.
5. A constant is trained only in the place of a weight, or where it is added or multiplied behind a weighted layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto

Array = np.ndarray[Any, Any]
Use = tuple[NodeProto, int]

WEIGHTS: dict[str, frozenset[int]] = {
    "Conv": frozenset({1, 2}), "ConvTranspose": frozenset({1, 2}), "Gemm": frozenset({0, 1, 2}),
    "MatMul": frozenset({0, 1}), "BatchNormalization": frozenset({1, 2}), "InstanceNormalization": frozenset({1, 2}),
    "LayerNormalization": frozenset({1, 2}), "GroupNormalization": frozenset({1, 2}),
    "RMSNormalization": frozenset({1}), "PRelu": frozenset({1}), "LSTM": frozenset({1, 2, 3, 7}),
    "GRU": frozenset({1, 2, 3}), "RNN": frozenset({1, 2, 3}), "Gather": frozenset({0}), "Einsum": frozenset(range(8)),
}  # fmt: skip
NEVER: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}), "Clip": frozenset({1, 2}), "Dropout": frozenset({1, 2}),
    "Pad": frozenset({1, 2, 3}), "Pow": frozenset({1}), "Resize": frozenset({1, 2, 3}), "Upsample": frozenset({1}),
    "Where": frozenset({0}), "LSTM": frozenset({4, 5, 6}), "GRU": frozenset({4, 5}), "RNN": frozenset({4, 5}),
    "Equal": frozenset({0, 1}), "Less": frozenset({0, 1}), "Greater": frozenset({0, 1}), "Shape": frozenset({0}),
    "LessOrEqual": frozenset({0, 1}), "GreaterOrEqual": frozenset({0, 1}), "Range": frozenset({0, 1, 2}),
    "OneHot": frozenset({0, 1, 2}), "Attention": frozenset({3}), "ConstantOfShape": frozenset({0}),
}  # fmt: skip
_NUMBERS: dict[str, frozenset[int]] = {
    "Resize": frozenset({1, 2, 3}), "Upsample": frozenset({1}), "Pad": frozenset({1, 2, 3}),
    "Reshape": frozenset({1}), "Expand": frozenset({1}), "Tile": frozenset({1}), "Slice": frozenset({1, 2, 3, 4}),
    "ConstantOfShape": frozenset({0}), "Range": frozenset({0, 1, 2}),
}  # fmt: skip
"""Inputs whose values decide about shapes: they must be known before the model runs."""
_VIEWS = frozenset(
    {"Identity", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Cast", "Flatten", "Expand", "CastLike", "Slice"}
)
_MIXING = frozenset({"Add", "Sub", "Mul", "Div", "Sum"})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "BatchNormalization", "LayerNormalization"})


@dataclass
class Roles:
    """What became of the float tensors.

    Args:
        parameters: Names of trained tensors.
        excluded: Names of tensors with an axis that are not trained, with the reason.
        shared: Trained tensors that feed several nodes.
        host: Single numbers and those that decide about shapes, folded into the graph.
    """

    parameters: set[str] = field(default_factory=set)
    excluded: dict[str, str] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    host: set[str] = field(default_factory=set)


def all_inputs(node: NodeProto) -> Iterator[str]:
    """What a node reads, its subgraphs included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from (info.name for info in attribute.g.output)
            for inner in attribute.g.node:
                yield from all_inputs(inner)


def assign(nodes: list[NodeProto], initial: dict[str, Array], constants: dict[str, Array], input_name: str) -> Roles:
    """Decide about every float tensor that a node reads."""
    readers: dict[str, list[Use]] = {}
    for node in nodes:
        for index, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, index))
    raw = _raw_values(nodes, input_name, {*initial, *constants})
    weighted = _weighted_values(nodes, {*initial, *constants})
    numbers = _shaping_values(nodes)
    roles = Roles()
    for name, value in {**constants, **initial}.items():
        uses = readers.get(name, [])
        if value.dtype.kind != "f" or not uses:
            continue
        followed = _follow(uses, readers)
        strong = any(index in WEIGHTS.get(node.op_type, ()) for node, index in followed)
        if value.ndim == 0 or ((value.size <= 1 or name in numbers) and not strong):
            roles.host.add(name)
            continue
        reason = _reason(value, followed, raw, strong)
        if not reason and name in constants and not strong and not _behind_weights(followed, weighted):
            reason = "a constant that is not in the place of a weight"
        if reason:
            roles.excluded[name] = reason
            continue
        roles.parameters.add(name)
        if sum(node.op_type not in ("Shape", "Size") for node, _ in uses) > 1:
            roles.shared.append(name)
    return roles


def _follow(uses: list[Use], readers: dict[str, list[Use]]) -> list[Use]:
    """The uses of a tensor, seen through views of it."""
    found: list[Use] = []
    pending, seen = list(uses), set()
    while pending:
        node, index = pending.pop()
        if (id(node), index) in seen:
            continue
        seen.add((id(node), index))
        if node.op_type in _VIEWS and index == 0:
            pending.extend(readers.get(node.output[0], []))
        else:
            found.append((node, index))
    return found


def _reason(value: Array, uses: list[Use], raw: set[str], strong: bool) -> str:
    """Why a tensor is not trained, or ""."""
    if uses and all(index in NEVER.get(node.op_type, ()) for node, index in uses):
        return f"input {uses[0][1]} of {uses[0][0].op_type} is never trained"
    if strong:
        return ""
    if uses and all(n.op_type in _MIXING and any(name in raw for name in n.input) for n, _ in uses):
        return "normalisation of the input"
    if _is_mask(value):
        return "a mask"
    return ""


def _is_mask(value: Array) -> bool:
    lowest = value.min() if value.size else 0
    return bool(lowest <= -99 and np.isin(value, (0.0, lowest)).all())


def _shaping_values(nodes: list[NodeProto]) -> set[str]:
    """Values that decide about shapes, and what they are computed from."""
    found: set[str] = set()
    for node in reversed(nodes):
        if found.intersection(node.output) and node.op_type not in ("Shape", "Size"):
            found.update(node.input)
        found.update(name for index, name in enumerate(node.input) if index in _NUMBERS.get(node.op_type, ()))
    return found - {""}


def _raw_values(nodes: list[NodeProto], input_name: str, tensors: set[str]) -> set[str]:
    """The input and what is made of it by views and arithmetic with constants alone."""
    raw = {input_name}
    for node in nodes:
        names = [name for name in node.input if name]
        viewed = node.op_type in _VIEWS and names and names[0] in raw
        mixed = (
            node.op_type in _MIXING and any(n in raw for n in names) and all(n in raw or n in tensors for n in names)
        )
        if viewed or mixed:
            raw.add(node.output[0])
    return raw


def _weighted_values(nodes: list[NodeProto], tensors: set[str]) -> set[str]:
    """Outputs of layers with weights, seen through views and the tensors that are added or multiplied behind them."""
    found: set[str] = set()
    fixed = set(tensors)
    for node in nodes:
        names = [name for name in node.input if name]
        if node.op_type in _VIEWS and names and names[0] in fixed:
            fixed.update(node.output)
        mixed = (
            node.op_type in _MIXING and any(n in found for n in names) and all(n in found or n in fixed for n in names)
        )
        if node.op_type in _WEIGHTED or mixed or (node.op_type in _VIEWS and names and names[0] in found):
            found.update(node.output)
    return found


def _behind_weights(uses: list[Use], weighted: set[str]) -> bool:
    return any(node.op_type in _MIXING and any(name in weighted for name in node.input) for node, _ in uses)
