"""Undoing what torch's default exporter does to trained tensors, where the file says enough to be sure.

With ``optimize=True`` it stores tensors of equal value once, drops biases of zero, and stores the weights of linear
layers transposed under a name of its own. All of that is undone by names: the file lists the module's parameters, and
says of each node which module it came from. What stays lost is for `fidelity` to say.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from onnx import NodeProto, helper

from leakaudit.target.onnx.exporter import Exporter, fused, operation, scopes
from leakaudit.target.onnx.source import Array

_LAYERS = (
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "RMSNormalization",
    "Conv", "ConvTranspose", "Gemm",
)  # fmt: skip
_LEAVES = {1: "weight", 2: "bias"}
"""What a module calls the tensor at an input of one of these nodes."""
_STATISTICS = {3: "running_mean", 4: "running_var"}
"""The same of what a BatchNorm keeps."""
_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_NORMS = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"})


def undo(nodes: list[NodeProto], initial: dict[str, Array], exporter: Exporter) -> tuple[list[NodeProto], list[str]]:
    """Give the module's tensors back their names; ``initial`` changes in place, the nodes do not.

    Returns:
        The nodes, and the names of tensors that the file does not hold and that are trained now.
    """
    if exporter.kind != "torch-default":
        return nodes, []
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # the file's own are checked against
    if not exporter.lists:
        return nodes, _separate_equal(nodes, initial)
    nodes = _turn_back(nodes, initial, exporter)
    restored = _separate_listed(nodes, initial, exporter)
    return nodes, restored + _restore_biases(nodes, initial, exporter)


def statistics_apart(nodes: list[NodeProto], initial: dict[str, Array]) -> list[NodeProto]:
    """A running mean or variance that is also read elsewhere: a copy, since no client shares one with a trained tensor.

    As of a fresh BatchNorm whose ones and zeros are stored once; where none comes first the exporter puts it into a
    convolution. ``initial`` changes in place, the nodes do not.
    """
    uses = Counter(name for node in nodes for name in node.input)
    found: list[NodeProto] = []
    for node in nodes:
        merged = [
            i for i in _STATISTICS if len(node.input) > i and uses[node.input[i]] > 1 and node.input[i] in initial
        ]
        if node.op_type == "BatchNormalization" and merged:
            node = NodeProto.FromString(node.SerializeToString())
            module = node.input[1].removesuffix(".weight")
            for index in merged:
                own = f"{module}.{_STATISTICS[index]}"
                own = f"leakaudit/{own}/{node.output[0]}" if own in initial else own
                initial[own], node.input[index] = initial[node.input[index]].copy(), own
        found.append(node)
    return found


def _missing(initial: dict[str, Array], exporter: Exporter) -> set[str]:
    return {name for name in exporter.parameters if name not in initial}


def _turn_back(nodes: list[NodeProto], initial: dict[str, Array], exporter: Exporter) -> list[NodeProto]:
    """Weights of linear layers that were stored transposed, under their own names, with the transposition in front."""
    missing = _missing(initial, exporter)
    found: list[NodeProto] = []
    for node in nodes:
        name = node.input[1] if node.op_type == "MatMul" else ""
        made_of = exporter.sources.get(name, ())
        linear = re.fullmatch(r"linear(_\d+)?", operation(node)) is not None
        if linear and len(made_of) == 1 and made_of[0] in missing and name in initial and initial[name].ndim == 2:
            initial[made_of[0]] = np.ascontiguousarray(initial[name].T)
            node.input[1] = f"leakaudit/{made_of[0]}"
            found.append(helper.make_node("Transpose", [made_of[0]], [node.input[1]], f"leakaudit/{name}", perm=[1, 0]))
        found.append(node)
    return found


def _separate_listed(nodes: list[NodeProto], initial: dict[str, Array], exporter: Exporter) -> list[str]:
    """A tensor that a node reads for another module's: a copy under the name that it has there."""
    missing = _missing(initial, exporter)
    uses = Counter(name for node in nodes for name in node.input)
    rewritten = {id(node) for node in fused(nodes)}
    restored: list[str] = []
    for node in nodes:
        if id(node) in rewritten:  # it has the module of the BatchNorm that was put into it
            continue
        for index, name in enumerate(node.input):
            if name not in initial or name not in exporter.parameters or uses[name] < 2:
                continue
            own = _own_name(node, index, name, missing)
            if own is not None:
                initial[own] = initial[name].copy()
                node.input[index] = own
                restored.append(own)
                missing.discard(own)
    return restored


def _own_name(node: NodeProto, index: int, name: str, missing: set[str]) -> str | None:
    """The lost parameter that stands at an input of a node, if names leave one only."""
    leaf = _LEAVES.get(index) if node.op_type in _LAYERS else None
    leaf = leaf or name.rpartition(".")[2]
    for scope in reversed(scopes(node)):
        own = f"{scope}.{leaf}" if scope else leaf
        if own in missing:
            return own
        if own == name:
            return None
    return None


def _restore_biases(nodes: list[NodeProto], initial: dict[str, Array], exporter: Exporter) -> list[str]:
    """Biases of zero that the exporter dropped: a node that has a weight of a module whose bias is missing."""
    missing, rewritten = _missing(initial, exporter), {id(node) for node in fused(nodes)}
    restored: list[str] = []
    for node in nodes:
        if id(node) in rewritten or node.op_type not in _BIASED or len(node.input) > 2 or node.input[1] not in initial:
            continue
        bias = re.sub(r"weight$", "bias", node.input[1])
        if bias not in missing:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        weight = initial[node.input[1]]
        axis = 0 if node.op_type == "Conv" or transposed else 1
        initial[bias] = np.zeros(weight.shape[axis], dtype=np.float32)
        node.input.append(bias)
        restored.append(bias)
        missing.discard(bias)
    return restored


def _separate_equal(nodes: list[NodeProto], initial: dict[str, Array]) -> list[str]:
    """The scale or shift of one number that several normalisations share: each its own, as before any training."""
    restored: list[str] = []
    seen: set[str] = set()
    for node in nodes:
        for index in (1, 2) if node.op_type in _NORMS else ():
            name = node.input[index] if index < len(node.input) else ""
            if name not in initial or not initial[name].size or np.ptp(initial[name]) > 0:
                continue
            if name in seen:
                own = f"{name}#{len(restored) + 1}"
                initial[own] = initial[name].copy()
                node.input[index] = own
                restored.append(own)
            seen.add(name)
    return restored
