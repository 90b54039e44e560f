"""From a checked ONNX model to its `Source`: what the logits depend on and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from onnx import ModelProto, NodeProto, TensorProto, defs

from leakaudit.document.counting import count
from leakaudit.errors import ModelError
from leakaudit.target import layout as layouts
from leakaudit.target.onnx import heads, merged, roles
from leakaudit.target.onnx.allowance import Allowance, made
from leakaudit.target.onnx.companions import TOKEN_TYPES, fill_companions
from leakaudit.target.onnx.exporter import recognise
from leakaudit.target.onnx.ops import find_own
from leakaudit.target.onnx.read import all_nodes
from leakaudit.target.onnx.registry import find_borrowed, since_version
from leakaudit.target.onnx.source import Array, Source, node_names
from leakaudit.target.onnx.tracer import Tracer
from leakaudit.target.onnx.values import array, attributes, check_attributes, constant_value, filled, type_name, widen
from leakaudit.target.patterns import check_patterns, matched

MOST_VERSIONS = 1_000_000
"""Versions that a set of operators may have; chosen, ONNX's own has two dozen."""
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_DETECTION = frozenset({"NonMaxSuppression", "RoiAlign", "MaxRoiPool"})
_BUILT_IN = frozenset({"If", "Dropout", "ConstantOfShape", "Range"})


def prepare(
    model: ModelProto,
    path: str,
    output: str | None = None,
    frozen: Sequence[str] = (),
    trained: Sequence[str] = (),
    trusted: bool = False,
) -> Source:
    """Split a model into parts; changes ``model`` in place.

    Raises:
        ModelError: Something in the file cannot be audited.
    """
    exporter = recognise(model)
    opset = _normalise(model, path)
    _refuse_quantised(model, path)
    filled = fill_companions(model)
    half = widen(model)
    graph = model.graph
    initial = {tensor.name: array(tensor, tensor.name) for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in initial]
    allowed = made(trusted)
    nodes, constants = _split_constants(list(graph.node), initial, allowed)
    nodes, copied = _resolve_identities(nodes, initial)
    nodes, restored = merged.undo(nodes, initial, exporter)
    nodes = merged.statistics_apart(nodes, initial)
    head = heads.find(graph, nodes, output, path)
    nodes = _reachable(nodes, head.logits)
    _refuse_missing(nodes, opset, path)
    input_name, input_shape, integer = _sample_input(inputs, nodes, path)
    if any(node.op_type == "If" for node in nodes):
        draft = _draft(nodes, opset, {**constants, **initial}, (input_name, input_shape), head.logits)
        draft = replace(draft, integer=integer, trusted=trusted)
        nodes, more = _split_constants(_without_branches(draft, path), initial, allowed)
        nodes = _reachable(nodes, head.logits)
        constants.update(more)
    found = roles.assign(nodes, initial, constants, input_name, exporter, trained)
    kept = {name for name in found.parameters if not matched(name, frozen)}
    floating = {name for name, value in initial.items() if value.dtype.kind == "f"}
    check_patterns(frozen, sorted(found.parameters | floating), path)
    check_patterns(trained, sorted(found.parameters), path, "--trained")
    values = {**constants, **initial}
    used = {name for node in nodes for name in roles.all_inputs(node)} | {head.logits}
    floats = {n: v for n, v in values.items() if n in used and v.dtype.kind == "f" and n not in found.host}
    return Source(
        nodes=tuple(_apart(node) for node in nodes),
        opset=opset,
        input_name=input_name,
        input_shape=input_shape,
        output_name=head.logits,
        parameters={name: value for name, value in floats.items() if name in kept},
        buffers={name: value for name, value in floats.items() if name not in kept},
        host={name: value for name, value in values.items() if name in used and name not in floats},
        head=head.activation,
        half=half,
        promoted=tuple(name for name in floats if name in kept and name in constants),
        excluded=found.excluded,
        copied=tuple(name for name in [*copied, *restored] if name in kept),
        shared=tuple(name for name in found.shared if name in kept),
        outputs=head.outputs,
        integer=integer,
        filled=filled,
        exporter=exporter,
        constants=frozenset(constants),
        scalars=tuple(name for name in found.scalars if name in kept),
        trusted=trusted,
    )


def _apart(node: NodeProto) -> NodeProto:
    """A node by itself; as part of a model it keeps all of it in memory, weights included."""
    alone = NodeProto()
    alone.CopyFrom(node)
    return alone


def _normalise(model: ModelProto, path: str) -> int:
    """Spell the default domain as "" everywhere; the version of its operators."""
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    if any(not 0 <= version <= MOST_VERSIONS for version in versions.values()):
        raise ModelError(
            f"{path} uses versions {sorted(versions.values())} of sets of operators, which there are not",
            "the file is damaged: export or copy it again",
        )
    if "" not in versions:
        raise ModelError(f"{path} uses none of ONNX's own operators, only those of {sorted(versions)}")
    _check_arity(model.graph.node, int(versions[""]), path)
    for node in all_nodes(list(model.graph.node)):
        check_attributes(node, int(versions[""]), path)
    if model.graph.sparse_initializer:
        raise ModelError(f"{path} holds sparse tensors, which are not supported", "export dense weights")
    del model.opset_import[:]
    for domain, version in versions.items():
        model.opset_import.add(domain=domain, version=version)
    return int(versions[""])


def _check_arity(nodes: Sequence[NodeProto], opset: int, path: str) -> None:
    """Refuse nodes that lack inputs or outputs."""
    for node in nodes:
        try:
            schema = None if node.domain else defs.get_schema(node.op_type, max_inclusive_version=opset)
        except defs.SchemaError:  # an unknown operator, named later with all others
            schema = None
        if not node.output or (schema is not None and len(node.input) < schema.min_input):
            raise ModelError(
                f"{path}: node {node.name or node.op_type!r} ({node.op_type}) has {len(node.input)} inputs and "
                f"{len(node.output)} outputs, fewer than it needs",
                "the file is damaged: export or copy it again",
            )


def _refuse_quantised(model: ModelProto, path: str) -> None:
    found = [
        n
        for n in model.graph.node
        if n.op_type in _QUANTISED or n.op_type.startswith("QLinear") or "NBits" in n.op_type
    ]
    if found:
        names = ", ".join(f"{node.op_type} ({node.name or node.output[0]})" for node in found[:3])
        raise ModelError(
            f"{path} is quantised ({len(found)} nodes such as {names}): integer weights have no gradient",
            "export the float model that is trained",
        )


def _split_constants(
    nodes: list[NodeProto], initial: dict[str, Array], allowed: Allowance
) -> tuple[list[NodeProto], dict[str, Array]]:
    """Take Constant and constant ConstantOfShape nodes out of the graph."""
    constants: dict[str, Array] = {}
    rest: list[NodeProto] = []
    for node in nodes:
        if node.op_type == "Constant" and not node.domain:
            constants[node.output[0]] = constant_value(node)
            continue
        sizes = constants.get(node.input[0], initial.get(node.input[0])) if node.input else None
        if node.op_type == "ConstantOfShape" and sizes is not None:
            constants[node.output[0]] = filled(node, sizes, allowed)
            continue
        rest.append(node)
    return rest, constants


def _resolve_identities(nodes: list[NodeProto], initial: dict[str, Array]) -> tuple[list[NodeProto], list[str]]:
    """Replace ``Identity(initialiser)``.

    Torch's exporter merges tensors of equal value in this way. A tensor that is one number throughout (fresh
    BatchNorm scales), or whose name differs in a layer's number only (cloned layers before training), was merged by
    accident and gets its own copy back; any other is a tied weight and stays shared.
    """
    rest: list[NodeProto] = []
    copied: list[str] = []
    alias: dict[str, str] = {}
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in alias:
                node.input[index] = alias[name]
        if node.op_type != "Identity" or node.input[0] not in initial:
            rest.append(node)
            continue
        source, name = node.input[0], node.output[0]
        value = initial[source]
        constant = value.size > 0 and bool((value == value.reshape(-1)[0]).all())
        cloned = source != name and re.sub(r"\d+", "#", source) == re.sub(r"\d+", "#", name) and "::" not in name
        if value.dtype.kind == "f" and (constant or cloned):
            initial[name] = value.copy()
            copied.append(name)
        else:
            alias[name] = source
    return rest, copied


def _reachable(nodes: list[NodeProto], output: str) -> list[NodeProto]:
    """The nodes that the output depends on, in order."""
    wanted = {output}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(roles.all_inputs(node))
    return kept[::-1]


def _draft(
    nodes: list[NodeProto],
    opset: int,
    values: dict[str, Array],
    sample: tuple[str, tuple[int | None, ...]],
    output: str,
) -> Source:
    """A source in which every float tensor is a parameter, good enough to follow the branches."""
    used = {name for node in nodes for name in roles.all_inputs(node)}
    floats = {name: v for name, v in values.items() if name in used and v.dtype.kind == "f" and v.size > 1}
    host = {name: v for name, v in values.items() if name in used and name not in floats}
    return Source(tuple(nodes), opset, *sample, output, floats, {}, host)


def _without_branches(draft: Source, path: str) -> list[NodeProto]:
    """The nodes that run, each `If` replaced by the branch that its condition (ranks, sizes, constants) selects."""
    _, candidates = layouts.infer(draft.input_shape[1:], None, path, tokens=draft.integer is not None)
    error: ModelError | None = None
    for native in candidates:
        x = torch.empty(draft.batch or 2, *native, device="meta", dtype=torch.long if draft.integer else torch.float)
        tracer = Tracer(draft, list(draft.parameters), {}, x, False, torch.float)
        try:
            tracer.build()
        except ModelError as refused:
            error = error or refused
            continue
        return tracer.executed
    assert error is not None
    raise error


def _refuse_missing(nodes: list[NodeProto], opset: int, path: str) -> None:
    """Name every operator that nothing here can compute, with its nodes."""
    boxes = [node for node in nodes if node.op_type in _DETECTION]
    if boxes:
        raise ModelError(
            f"{path} detects objects (it has {boxes[0].op_type} nodes): detection models are not supported yet",
            "it needs a classifier; choose another output with --output NAME",
        )
    missing: dict[str, list[str]] = {}
    for node, name in zip(nodes, node_names(nodes), strict=True):
        if node.domain:
            missing.setdefault(f"{node.domain}.{node.op_type}", []).append(name)
            continue
        version = since_version(node.op_type, opset)
        own = find_own(node.op_type, version)
        if (
            node.op_type in _BUILT_IN
            or (own and not own.unknown_attributes(attributes(node)))
            or find_borrowed(node.op_type, version)
        ):
            continue
        missing.setdefault(f"{node.op_type}-{version}", []).append(name)
    if missing:
        listed = "; ".join(f"{kind} at {', '.join(names[:4])}" for kind, names in sorted(missing.items()))
        raise ModelError(
            f"{path} needs {count(len(missing), 'operator')} not supported here: {listed}",
            "export the model again without them, or pass weights with --factory package.module:function",
        )


def _sample_input(
    inputs: list[Any], nodes: list[NodeProto], path: str
) -> tuple[str, tuple[int | None, ...], Literal["int32", "int64"] | None]:
    """Name and shape of the one graph input that the logits depend on, and its type where it takes token ids."""
    used = {name for node in nodes for name in roles.all_inputs(node)}
    relevant = [info for info in inputs if info.name in used]
    if not relevant:
        raise ModelError(f"{path}: the output does not depend on any input", "choose another with --output NAME")
    if len(relevant) > 1:
        names = ", ".join(repr(info.name) for info in relevant)
        raise ModelError(
            f"{path} has {len(relevant)} inputs ({names}), expected one",
            "export with a single input; integers that are looked up in embeddings are joined with numbers (N, D) to "
            "rows of a table; beside token ids, a mask is filled with ones, segments with zeros, positions from 0 on",
        )
    kind = relevant[0].type.tensor_type
    if kind.elem_type not in (TensorProto.FLOAT, *TOKEN_TYPES):
        raise ModelError(
            f"{path}: input {relevant[0].name!r} takes {type_name(kind.elem_type)} values, expected "
            "real numbers, or token ids of type int32 or int64",
            "export the model for float inputs, without a cast in front",
        )
    if not kind.HasField("shape"):
        raise ModelError(f"{path}: input {relevant[0].name!r} has no shape", "export with a sample input")
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return relevant[0].name, shape, TOKEN_TYPES.get(kind.elem_type)
