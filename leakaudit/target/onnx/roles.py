"""Which tensors of an ONNX file the client trains.

The file does not say. What is known: weights sit at known inputs of known operators, running statistics, limits and
masks at others; torch writes weights as initialisers, some converters as Constant nodes. The rules, in order:

1. A tensor at a place that is never trained (BatchNorm mean and variance, Clip limits, a dropout ratio, …) is a buffer.
2. Where the exporter lists the module's parameters, these are trained, and neither its buffers nor what was made of no
   parameter.
3. A scale of ones or a shift of zeros that no module has a name for belongs to a normalisation without parameters.
4. A subtraction, division, … of the raw input is its normalisation, not a layer: a buffer.
5. An additive mask (only 0 and large negative numbers) is a buffer; so are the mean and the variance of a BatchNorm
   that is spelt out in arithmetic.
6. Any other initialiser of more than one entry, or in the place of a weight, is trained.
7. A single number is trained in the place of a weight, where it is added to the single output of a layer, and where
   torch has kept it under a module's name.
8. A constant is trained only in the place of a weight, or where it is added or multiplied behind a weighted layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto

from leakaudit.target.onnx.exporter import Exporter, automatic
from leakaudit.target.patterns import matched

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
RAW = "normalisation of the input"
SPELT = "the mean of a BatchNorm spelt out"
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
        scalars: Trained single numbers outside the place of a weight.
    """

    parameters: set[str] = field(default_factory=set)
    excluded: dict[str, str] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    host: set[str] = field(default_factory=set)
    scalars: list[str] = field(default_factory=list)


def all_inputs(node: NodeProto) -> Iterator[str]:
    """What a node reads, its subgraphs included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from (info.name for info in attribute.g.output)
            for inner in attribute.g.node:
                yield from all_inputs(inner)


@dataclass(frozen=True)
class Places:
    """Where tensors and values stand in a graph.

    Args:
        readers: The uses of each value.
        producers: The node that makes each value.
        raw: Values that are the input, but for views and arithmetic with constants.
        weighted: Values behind layers with weights.
        numbers: Values that decide about shapes.
        tensors: All tensors of the file.
        exporter: What wrote it.
    """

    readers: dict[str, list[Use]]
    producers: dict[str, NodeProto]
    raw: set[str]
    weighted: set[str]
    numbers: set[str]
    tensors: dict[str, Array]
    exporter: Exporter


def assign(
    nodes: list[NodeProto],
    initial: dict[str, Array],
    constants: dict[str, Array],
    input_name: str,
    exporter: Exporter | None = None,
    trained: Sequence[str] = (),
) -> Roles:
    """Decide about every float tensor that a node reads; those that match a pattern of ``trained`` are parameters."""
    places = _places(nodes, {**constants, **initial}, input_name, exporter or Exporter())
    roles = Roles()
    for name, value in places.tensors.items():
        uses = places.readers.get(name, [])
        if value.dtype.kind != "f" or not uses:
            continue
        followed = _follow(uses, places.readers)
        strong = any(index in WEIGHTS.get(node.op_type, ()) for node, index in followed)
        wanted = matched(name, trained)
        single = value.size <= 1 and not (strong and value.ndim)
        if not wanted and (
            (single and not _trained_number(name, followed, places, name in initial))
            or (name in places.numbers and not strong)
        ):
            roles.host.add(name)
            continue
        reason = "" if wanted else _reason(name, value, followed, places, strong, name in constants)
        if reason:
            roles.excluded[name] = reason
            continue
        roles.parameters.add(name)
        if single and not places.exporter.lists and places.exporter.parameter(name):
            roles.scalars.append(name)
        if sum(node.op_type not in ("Shape", "Size") for node, _ in uses) > 1:
            roles.shared.append(name)
    return roles


def _places(nodes: list[NodeProto], tensors: dict[str, Array], input_name: str, exporter: Exporter) -> Places:
    readers: dict[str, list[Use]] = {}
    for node in nodes:
        for index, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, index))
    producers = {name: node for node in nodes for name in node.output}
    raw, weighted = _raw_values(nodes, input_name, {*tensors}), _weighted_values(nodes, {*tensors})
    return Places(readers, producers, raw, weighted, _shaping_values(nodes), tensors, exporter)


def _trained_number(name: str, uses: list[Use], places: Places, initialiser: bool) -> bool:
    """Whether a single number is trained: the bias of a single output, or a tensor that torch kept by its name."""
    if name in places.numbers or not initialiser or not uses or _never(uses):
        return False
    if places.exporter.parameter(name):
        return True
    return places.tensors[name].ndim > 0 and any(_is_single_bias(node, index, places) for node, index in uses)


def _is_single_bias(node: NodeProto, index: int, places: Places) -> bool:
    """Whether a node adds its operand at ``index`` to the output of a layer that has one."""
    if node.op_type not in ("Add", "Sum") or len(node.input) != 2:
        return False
    layer = places.producers.get(node.input[1 - index])
    while layer is not None and layer.op_type in _VIEWS:
        layer = places.producers.get(layer.input[0])
    if layer is None or layer.op_type not in ("MatMul", "Gemm", "Conv") or layer.input[1] not in places.tensors:
        return False
    weight = places.tensors[layer.input[1]]
    if layer.op_type == "MatMul":
        return bool(weight.shape[-1:] == (1,))
    turned = layer.op_type == "Conv" or any(a.name == "transB" and a.i for a in layer.attribute)
    return bool((weight.shape[:1] if turned else weight.shape[-1:]) == (1,))


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


def _never(uses: list[Use]) -> bool:
    return all(index in NEVER.get(node.op_type, ()) for node, index in uses)


def _reason(name: str, value: Array, uses: list[Use], places: Places, strong: bool, constant: bool) -> str:
    """Why a tensor is not trained, or ""."""
    if uses and _never(uses):
        return f"input {uses[0][1]} of {uses[0][0].op_type} is never trained"
    if places.exporter.lists and name in places.exporter.parameters:
        return ""
    if places.exporter.fixed(name):
        return "a buffer or constant of the module"
    if (constant or automatic(name)) and uses and all(_is_neutral(value, node, index) for node, index in uses):
        return "a normalisation without parameters"
    if strong:
        return ""
    if uses and all(n.op_type in _MIXING and any(x in places.raw for x in n.input) for n, _ in uses):
        return RAW
    if _is_mask(value):
        return "a mask"
    if any(_is_spelt_mean(name, node, index, places) for node, index in uses):
        return SPELT
    if any(_is_spelt_variance(node, places) for node, _ in uses):
        return "the variance of a normalisation spelt out"
    if constant and not _behind_weights(uses, places.weighted):
        return "a constant that is not in the place of a weight"
    return ""


def _is_neutral(value: Array, node: NodeProto, index: int) -> bool:
    """Whether a tensor is a scale of ones or a shift of zeros."""
    return "Normalization" in node.op_type and index in (1, 2) and bool((value == 2 - index).all())


def _is_spelt_mean(name: str, node: NodeProto, index: int, places: Places) -> bool:
    """Whether a node subtracts a tensor of one value per channel behind a layer, and a scale of that size follows."""
    if node.op_type != "Sub" or index != 1 or node.input[0] not in places.weighted:
        return False
    size = places.tensors[name].size
    followed = _follow(places.readers.get(node.output[0], []), places.readers)
    others = [n.input[1 - i] for n, i in followed if n.op_type in ("Mul", "Div") and len(n.input) == 2]
    return any(other in places.tensors and places.tensors[other].size == size for other in others) or any(
        n.op_type == "Div" and i == 0 for n, i in followed
    )


def _is_spelt_variance(node: NodeProto, places: Places) -> bool:
    """Whether a node adds a single number to a tensor, and a square root follows."""
    if node.op_type != "Add" or not any(n in places.tensors and places.tensors[n].size == 1 for n in node.input):
        return False
    return any(reader.op_type in ("Sqrt", "Pow") for reader, _ in places.readers.get(node.output[0], []))


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
