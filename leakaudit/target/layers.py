"""From recorded operators to layers: visit them in order, then merge.

Used by `leakaudit.target.inventory`, which states the result; `leakaudit.target.operators` reads the single operators.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import fx

from leakaudit.target import pointwise
from leakaudit.target.kinds import Layer, consumers, unique_names
from leakaudit.target.operators import HANDLERS, RESHAPES, SLICES, Draft, other
from leakaudit.target.trace import Trace, op_name

_TRANSPARENT = {"detach", "alias", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "_to_copy", "to"}


class Builder:
    """Turns a trace into layers; use once."""

    def __init__(self, recorded: Trace) -> None:
        self.trace = recorded
        self.live = recorded.live()
        self.fused = pointwise.fused(recorded, self.live)
        self.inside = {n: out for out, match in self.fused.items() for n in match.nodes if n is not out}
        self.where: dict[fx.Node, int] = {recorded.input: -1}
        self.layers: list[Layer] = []
        self.output: dict[int, fx.Node] = {}

    def build(self) -> tuple[tuple[Layer, ...], dict[int, fx.Node]]:
        """Layers in order, and the node that is each one's output."""
        for node in self.trace.nodes:
            if node in self.live and node is not self.trace.input and node not in self.inside:
                self._visit(node)
        for merge in (_merge_reshapes, _merge_linear, _merge_bias, _merge_reshapes, _merge_affine):
            self.layers = merge(self)
        named = unique_names(self.layers)
        return named, dict(self.output)

    def _visit(self, node: fx.Node) -> None:
        if node in self.fused:
            match = self.fused[node]
            self._append(node, Draft("activation", (match.source,), settings={"function": match.function}))
            return
        name = op_name(node)
        source = node.args[0] if node.args else None
        same_shape = isinstance(source, fx.Node) and self.trace.shape(source) == self.trace.shape(node)
        several = isinstance(source, fx.Node) and bool(source.meta.get("several"))
        if name in _TRANSPARENT or (name == "getitem" and several and op_name(source) not in SLICES):  # type: ignore[arg-type]
            self.where[node] = self.where[source]  # type: ignore[index]
            if several and node.args[1] == 0:
                self.output[self.where[node]] = node
        elif name in RESHAPES and same_shape and name not in ("transpose", "permute", "t"):
            self.where[node] = self.where[source]  # type: ignore[index]
        elif several and name == "getitem":
            self.where[node] = self.where[source]  # type: ignore[index]
            self._append(node, Draft("slice", (source,), settings={"part": node.args[1]}))
        elif name in SLICES and node.meta.get("several"):
            self.where[node] = self.where[source]  # type: ignore[index]
        else:
            self._append(node, HANDLERS.get(name, other)(self.trace, node))

    def _append(self, node: fx.Node, draft: Draft) -> None:
        inputs = tuple(self.where[n] for n in draft.data)
        index = len(self.layers)
        tensor = draft.weight or (draft.bias if draft.kind in ("add", "affine") else None)
        self.layers.append(
            Layer(
                index=index,
                name=_module_name(tensor.name) if tensor else "",
                kind=draft.kind,
                inputs=inputs,
                input_shape=self.sample_shape(draft.data[0]) if draft.data else (),
                output_shape=self.sample_shape(node),
                weight=draft.weight.name if draft.weight else None,
                bias=draft.bias.name if draft.bias else None,
                settings=draft.settings,
            )
        )
        self.where[node] = index
        self.output[index] = node

    def sample_shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape without the batch axis, where the leading axis is one."""
        shape = self.trace.shape(node)
        return shape[1:] if shape and shape[0] == self.trace.batch_size else shape

    def drop(self, removed: dict[int, int], changed: dict[int, Layer]) -> list[Layer]:
        """Remove layers (index → the layer that takes their place), replace others, and renumber."""

        def final(index: int) -> int:
            while index in removed:
                index = removed[index]
            return index

        kept = [changed.get(layer.index, layer) for layer in self.layers if layer.index not in removed]
        number = {layer.index: position for position, layer in enumerate(kept)} | {-1: -1}
        self.output = {number[i]: n for i, n in self.output.items() if i in number}
        return [
            replace(layer, index=number[layer.index], inputs=tuple(number[final(i)] for i in layer.inputs))
            for layer in kept
        ]


def _module_name(parameter: str) -> str:
    return parameter.rsplit(".", 1)[0] if "." in parameter else parameter


def _merge_reshapes(builder: Builder) -> list[Layer]:
    """A reshape that only feeds a reshape becomes one with it; one that changes nothing goes."""
    fed = consumers(tuple(builder.layers))
    removed: dict[int, int] = {}
    changed: dict[int, Layer] = {}
    for layer in builder.layers:
        if layer.kind != "reshape":
            continue
        (before,) = layer.inputs
        previous = changed.get(before, builder.layers[before]) if before >= 0 else None
        if previous is not None and previous.kind == "reshape" and fed[before] == (layer.index,):
            moved = previous.settings["permutes"] or layer.settings["permutes"]
            shape = previous.input_shape
            layer = replace(layer, inputs=previous.inputs, input_shape=shape, settings={"permutes": moved})
            removed[before] = previous.inputs[0]
            changed[layer.index] = layer
        if layer.input_shape == layer.output_shape and not layer.settings["permutes"]:
            removed[layer.index] = layer.inputs[0]
    return builder.drop(removed, changed)


def _merge_linear(builder: Builder) -> list[Layer]:
    """view (·, n) → linear → view (·, F) around a linear layer over tokens becomes the linear layer."""
    fed = consumers(tuple(builder.layers))
    removed: dict[int, int] = {}
    changed: dict[int, Layer] = {}
    for layer in builder.layers:
        if layer.kind != "linear":
            continue
        before = layer.inputs[0]
        inner = builder.layers[before] if before >= 0 else None
        if inner is not None and _keeps_rows(inner, inner.input_shape, layer.settings["in_features"]):
            if len(fed[before]) == 1:
                removed[before] = inner.inputs[0]
            layer = replace(layer, inputs=inner.inputs, input_shape=inner.input_shape)
            changed[layer.index] = layer
        after = fed[layer.index]
        outer = builder.layers[after[0]] if len(after) == 1 else None
        if outer is not None and _keeps_rows(outer, outer.output_shape, layer.settings["out_features"]):
            removed[outer.index] = layer.index
            builder.output[layer.index] = builder.output[outer.index]
            changed[layer.index] = replace(layer, output_shape=outer.output_shape)
    return builder.drop(removed, changed)


def _keeps_rows(layer: Layer, shape: tuple[int, ...], features: int) -> bool:
    return layer.kind == "reshape" and not layer.settings["permutes"] and len(shape) > 1 and shape[-1] == features


def _merge_bias(builder: Builder) -> list[Layer]:
    """MatMul followed by Add of a vector, as exporters write it, becomes one linear layer with a bias."""
    fed = consumers(tuple(builder.layers))
    removed: dict[int, int] = {}
    changed: dict[int, Layer] = {}
    for layer in builder.layers:
        if layer.kind != "add" or layer.bias is None or "operation" in layer.settings:
            continue
        before = layer.inputs[0]
        matrix = builder.layers[before] if before >= 0 else None
        if matrix is None or matrix.kind != "linear" or matrix.bias is not None or fed[before] != (layer.index,):
            continue
        if prod(layer.settings["bias_shape"]) == matrix.settings["out_features"] == layer.settings["bias_shape"][-1]:
            removed[layer.index] = before
            builder.output[before] = builder.output[layer.index]
            settings = matrix.settings | {"bias_shape": layer.settings["bias_shape"]}
            changed[before] = replace(matrix, bias=layer.bias, settings=settings)
    return builder.drop(removed, changed)


def _merge_affine(builder: Builder) -> list[Layer]:
    """Successive additions and multiplications by constants become one layer."""
    fed = consumers(tuple(builder.layers))
    removed: dict[int, int] = {}
    changed: dict[int, Layer] = {}
    for layer in builder.layers:
        if layer.kind != "affine":
            continue
        before = layer.inputs[0]
        previous = changed.get(before, builder.layers[before]) if before >= 0 else None
        if previous is None or previous.kind != "affine" or fed[before] != (layer.index,):
            continue
        operations = previous.settings["operations"] + layer.settings["operations"]
        settings = {"operations": operations}
        removed[before] = previous.inputs[0]
        shape = previous.input_shape
        changed[layer.index] = replace(layer, inputs=previous.inputs, input_shape=shape, settings=settings)
    return builder.drop(removed, changed)
