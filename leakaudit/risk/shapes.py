"""Shapes of a changed layer list, from the input on along every path.

Layers whose shape rule is not known keep their output where their input stays, and are refused where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from leakaudit.errors import UsageError
from leakaudit.target.kinds import Layer

Layers = tuple[Layer, ...]
Shape = tuple[int, ...]
KEEPS_SHAPE = ("activation", "affine", "dropout", "batchnorm", "layernorm", "groupnorm", "softmax", "add", "multiply")
"""Kinds of layers with one input whose output has its shape."""


class MismatchError(UsageError):
    """Paths that meet no longer fit.

    Args:
        join: The layer at which they meet.
        layers: All layers after the change.
        shapes: Of what the join is given.
    """

    def __init__(self, join: Layer, layers: Sequence[Layer], shapes: Sequence[Shape]) -> None:
        names = ["the input" if i < 0 else layers[i].name for i in join.inputs]
        parts = " and ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
        super().__init__(
            f"{join.name} ({join.kind}) joins {parts}: after the change they do not fit",
            "change both paths (--what-if is repeatable), or a layer outside the block",
        )
        self.join = join


def is_depthwise(layer: Layer) -> bool:
    """Whether it is a convolution of each channel by itself, so that its width is that of its input."""
    settings = layer.settings
    return layer.kind == "convolution" and 1 < settings["groups"] == settings["in_channels"] == settings["out_channels"]


def reshaped(before: Layers, layers: Layers) -> Layers:
    """Propagate shapes from the input on."""
    shapes: dict[int, Shape] = {-1: _shape(before, -1)}
    originals = {layer.name: layer for layer in before}
    result = []
    for layer in layers:
        original = originals.get(layer.name)  # none: a pool that was put in
        inputs = [shapes[source] for source in layer.inputs]
        was = [_shape(before, source) for source in original.inputs] if original else []
        same = original is not None and inputs == was and layer.settings == original.settings
        updated = layer if same else _with_inputs(layer, layers, inputs, was)
        result.append(updated)
        shapes[layer.index] = updated.output_shape
    return tuple(result)


def _shape(layers: Layers, index: int) -> Shape:
    return layers[index].output_shape if index >= 0 else layers[0].input_shape


def _with_inputs(layer: Layer, layers: Layers, inputs: list[Shape], was: list[Shape]) -> Layer:
    shape = inputs[0] if inputs else ()
    settings = dict(layer.settings)
    if len(inputs) > 1:
        output = _joined(layer, layers, inputs, was)
    elif layer.kind == "convolution":
        output = _convolved(layer, settings, shape)
    elif layer.kind == "linear":
        settings |= {"in_features": shape[-1], "tokens": prod(shape[:-1])}
        settings["weight_shape"] = (shape[-1], settings["out_features"])
        output = (*shape[:-1], settings["out_features"])
    elif layer.kind in ("max_pool", "avg_pool"):
        output = (shape[0], *_windows(layer, settings, shape[1:]))
    elif layer.kind in KEEPS_SHAPE:
        output = shape
        settings |= _norm_shapes(layer, shape)
    else:
        output = _other_output(layer, shape)
    return replace(layer, input_shape=shape, output_shape=output, settings=settings)


def _joined(layer: Layer, layers: Layers, inputs: list[Shape], was: list[Shape]) -> Shape:
    if inputs == was:
        return layer.output_shape
    axis = None
    if layer.kind == "concat" and not layer.settings["tensors"]:
        axis = layer.settings["axis"] - (layer.settings["axis"] > 0)
    elif layer.kind not in ("add", "multiply"):
        raise UsageError(
            f"{layer.name} ({layer.kind}): the shape after the change is not known", "change a later layer"
        )
    rank = max(len(shape) for shape in inputs)
    padded = [(1,) * (rank - len(shape)) + shape for shape in inputs]
    padded_was = [(1,) * (rank - len(shape)) + shape for shape in was]
    output = [max(sizes) for sizes in zip(*padded, strict=True)]
    output_was = [max(sizes) for sizes in zip(*padded_was, strict=True)]
    for shape, old in zip(padded, padded_was, strict=True):
        for a in range(rank):
            if axis is not None and a == axis % rank:
                continue
            if shape[a] != (output[a] if old[a] == output_was[a] else 1):
                raise MismatchError(layer, layers, inputs)
    if axis is not None:
        output[axis] = sum(shape[axis] for shape in padded)
    return tuple(output)


def _convolved(layer: Layer, settings: dict[str, Any], shape: Shape) -> Shape:
    if is_depthwise(layer):
        settings["groups"] = settings["out_channels"] = shape[0]
    elif shape[0] % settings["groups"]:
        raise UsageError(f"{layer.name} has {settings['groups']} groups: its input cannot have {shape[0]} channels")
    settings["in_channels"] = shape[0]
    settings["weight_shape"] = (settings["out_channels"], shape[0] // settings["groups"], *settings["kernel"])
    return (settings["out_channels"], *_windows(layer, settings, shape[1:]))


def _norm_shapes(layer: Layer, shape: Shape) -> dict[str, Shape]:
    if layer.kind == "layernorm":
        normalized = shape[len(shape) - len(layer.settings["normalized_shape"]) :]
        found = {"normalized_shape": normalized, "weight_shape": normalized, "bias_shape": normalized}
    elif layer.kind in ("batchnorm", "groupnorm"):
        if layer.kind == "groupnorm" and shape[0] % layer.settings["groups"]:
            raise UsageError(f"{layer.name}: {shape[0]} channels do not fit its {layer.settings['groups']} groups")
        found = {"weight_shape": shape[:1], "bias_shape": shape[:1]}
    else:
        return {}
    return {key: value for key, value in found.items() if key in layer.settings}


def _other_output(layer: Layer, shape: Shape) -> Shape:
    if shape == layer.input_shape:
        return layer.output_shape
    if layer.kind == "reshape" and not layer.settings["permutes"] and len(layer.output_shape) == 1:
        return (prod(shape),)
    if layer.kind == "global_pool":
        kept = layer.output_shape[len(layer.output_shape) - sum(n == 1 for n in layer.output_shape[1:]) :]
        return (shape[0], *kept)
    if layer.kind == "pad":
        pads = layer.settings["pads"]
        added = [pads[i] + pads[i + 1] for i in range(0, len(pads), 2)][::-1]
        added = [0] * (len(shape) - len(added)) + added
        return tuple(n + extra for n, extra in zip(shape, added, strict=True))
    raise UsageError(f"{layer.name} ({layer.kind}): the shape after the change is not known", "change a later layer")


def _windows(layer: Layer, settings: dict[str, Any], size: Shape) -> Shape:
    if settings.get("adaptive"):
        return layer.output_shape[1:]
    if settings.get("transposed"):
        if size != layer.input_shape[1:]:
            raise UsageError(
                f"{layer.name} is a transposed convolution: its input size cannot change", "change a later layer"
            )
        return layer.output_shape[1:]
    kernel, stride, padding = (tuple(settings[k]) for k in ("kernel", "stride", "padding"))
    dilation = tuple(settings.get("dilation", (1,) * len(kernel)))
    up = [s - 1 if settings.get("ceil_mode") else 0 for s in stride]
    result = tuple(
        (n + 2 * p - d * (k - 1) - 1 + u) // s + 1
        for n, k, s, p, d, u in zip(size, kernel, stride, padding, dilation, up, strict=True)
    )
    if min(result) < 1:
        raise UsageError(f"{layer.name}: nothing is left of its {size} input after the change", "use a smaller value")
    return result
