"""Changes of an architecture as changes of its layer list, with the shapes that follow along every path.

Claim. A stride, width, bias or pool is changed in the inventory, and shapes are propagated from the input through the
layer graph. Two kinds of changes pull others with them, and only these:

* a *width* changes every layer whose output an addition, a gate or a depthwise convolution ties to it (the residual
  stream of a stage has one width);
* a *stride* inside a block is repeated in the shortcut, where that has a convolution to carry it.

Fails with `UsageError`, which names the layer in the way: an identity shortcut around a changed stride or pool, widths
tied to the model's input, to its classes or to a reshape, layers whose shape rule is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from leakaudit.errors import UsageError
from leakaudit.risk.shapes import KEEPS_SHAPE, Layers, MismatchError, is_depthwise, reshaped
from leakaudit.target.kinds import Layer

_WEIGHTED = ("convolution", "linear")
_KEEPS_WIDTH = (*KEEPS_SHAPE, "max_pool", "avg_pool", "global_pool", "pad")


@dataclass(frozen=True)
class Change:
    """One change of one layer.

    Args:
        what: ``stride`` (of a convolution), ``width`` (its output channels or features), ``bias`` (on or off), or
            ``pool`` (max-pooling of that size behind the layer's activation; 1 removes the pooling that is there).
        layer: Name of the layer, or its kind and number (``conv1``, ``fc2``).
        value: New value; 1 and 0 for a bias that is on and off.
    """

    what: str
    layer: str
    value: int

    @property
    def sentence(self) -> str:
        """The change in words: ``Change the stride of layer conv1 to 2``."""
        told = {
            "stride": f"Change the stride of layer {self.layer} to {self.value}",
            "width": f"Change the number of outputs of layer {self.layer} to {self.value}",
            "bias": f"{'Train' if self.value else 'Remove'} the bias of layer {self.layer}",
            "pool": f"Pool by {self.value} behind layer {self.layer}"
            if self.value > 1
            else f"Remove the pool of {self.layer}",
        }
        return told[self.what]

    def __str__(self) -> str:
        shown = ("off", "on")[self.value] if self.what == "bias" else str(self.value)
        return f"{self.what}={self.layer}:{shown}"


def changed(layers: Layers, changes: Sequence[Change]) -> tuple[Layers, tuple[Change, ...]]:
    """The layers after the changes, and the changes of other layers that these pull with them.

    Raises:
        UsageError: There is no such layer, or a change does not fit; names the layer in the way.
    """
    named = {find(layers, change.layer).name for change in changes}
    implied = [e for change in changes for e in _of_same_width(layers, change) if e.layer not in named]
    result = layers
    for change in (*changes, *implied):
        result = _apply(result, change)
    while True:
        try:
            return reshaped(layers, result), tuple(implied)
        except MismatchError as mismatch:
            follower = _stride_of_shortcut(layers, result, mismatch.join, {*named, *(e.layer for e in implied)})
            if follower is None:
                raise
            implied.append(follower)
            result = _apply(result, follower)


def find(layers: Layers, name: str) -> Layer:
    """A weighted layer by its name, or by kind and number among its kind: ``conv1``, ``fc2``.

    Raises:
        UsageError: There is none; lists those that there are.
    """
    weighted = [layer for layer in layers if layer.kind in _WEIGHTED]
    numbers = dict.fromkeys(_WEIGHTED, 0)
    aliases: dict[str, Layer] = {}
    for layer in weighted:
        numbers[layer.kind] += 1
        for stem in ("conv", "convolution") if layer.kind == "convolution" else ("fc", "linear"):
            aliases[f"{stem}{numbers[layer.kind]}"] = layer
    by_name = aliases | {layer.name: layer for layer in weighted}
    if name not in by_name:
        raise UsageError(f"no layer {name!r}", f"the model has {', '.join(layer.name for layer in weighted)}")
    return by_name[name]


def _apply(layers: Layers, change: Change) -> Layers:
    layer = find(layers, change.layer)
    if change.what == "pool":
        return _pooled(layers, layer, change.value)
    settings = dict(layer.settings)
    if change.what == "stride":
        if layer.kind != "convolution":
            raise UsageError(f"{change}: only a convolution has a stride", "name a convolution")
        settings["stride"] = (change.value,) * len(settings["stride"])
    elif change.what == "width":
        if layer.kind == "convolution" and change.value % settings["groups"]:
            raise UsageError(f"{change}: {layer.name} has {settings['groups']} groups", "use a multiple of that")
        settings["out_channels" if layer.kind == "convolution" else "out_features"] = change.value
    else:
        settings["biased"] = bool(change.value)
    bias = layer.bias if change.what != "bias" else f"{layer.name}.bias" if change.value else None
    return tuple(replace(layer, settings=settings, bias=bias) if old is layer else old for old in layers)


def _pooled(layers: Layers, layer: Layer, size: int) -> Layers:
    """Put a max-pool behind the layer's activation, in place of the one that is there."""
    if layer.kind != "convolution":
        raise UsageError(f"pool={layer.name}:{size}: only a convolution can be pooled", "name a convolution")
    at = layer
    while (after := _only_user(layers, at)) is not None and after.kind in ("activation", "batchnorm"):
        at = after
    if after is not None and after.kind in ("max_pool", "avg_pool"):
        layers = _without(layers, after)
    if size == 1:
        return layers
    axes = len(layer.settings["kernel"])
    settings = {"kernel": (size,) * axes, "stride": (size,) * axes, "padding": (0,) * axes, "ceil_mode": False}
    pool = Layer(at.index + 1, f"{layer.name}.pool", "max_pool", (at.index,), (), (), settings=settings)
    number = {i: i + (i > at.index) for i in range(-1, len(layers))}
    behind = {i: pool.index if i == at.index else number[i] for i in number}
    shifted = [replace(old, index=number[old.index], inputs=tuple(behind[i] for i in old.inputs)) for old in layers]
    return (*shifted[: pool.index], pool, *shifted[pool.index :])


def _only_user(layers: Layers, layer: Layer) -> Layer | None:
    users = [other for other in layers if layer.index in other.inputs]
    return users[0] if len(users) == 1 else None


def _without(layers: Layers, gone: Layer) -> Layers:
    number = {i: i - (i > gone.index) for i in range(-1, len(layers))} | {gone.index: gone.inputs[0]}
    return tuple(
        replace(old, index=number[old.index], inputs=tuple(number[i] for i in old.inputs))
        for old in layers
        if old is not gone
    )


def _of_same_width(layers: Layers, change: Change) -> list[Change]:
    """The same width for every layer that the graph ties to the changed one."""
    if change.what != "width":
        return []
    layer = find(layers, change.layer)
    if is_depthwise(layer):
        raise UsageError(f"{change}: a depthwise layer has the width of its input", "change the layer before it")
    last = [other for other in layers if other.kind in _WEIGHTED][-1]
    followers = []
    for index in _tied(layers, layer.index):
        other = layers[index] if index >= 0 else None
        if other is None or (other.kind not in (*_KEEPS_WIDTH, *_WEIGHTED)):
            name = "the model's input" if other is None else f"{other.name} ({other.kind})"
            raise UsageError(f"{change}: its width is tied to {name}, which keeps its own", "change another layer")
        if other is last:
            raise UsageError(f"{change}: the width of {last.name} is the number of classes", "change another layer")
        if other.kind in _WEIGHTED and other is not layer and not is_depthwise(other):
            followers.append(Change("width", other.name, change.value))
    return followers


def _tied(layers: Layers, index: int) -> list[int]:
    """Indices of all tensors, -1 for the input, that have the same width as this one by construction."""
    group = {i: {i} for i in range(-1, len(layers))}
    for layer in layers:
        joins = layer.kind in ("add", "multiply") and len(layer.inputs) > 1
        if joins or layer.kind in _KEEPS_WIDTH or is_depthwise(layer):
            for source in layer.inputs:
                merged = group[layer.index] | group[source]
                for member in merged:
                    group[member] = merged
    return sorted(group[index])


def _stride_of_shortcut(before: Layers, layers: Layers, join: Layer, named: set[str]) -> Change | None:
    """The stride that the path beside a changed one needs, for its convolution of the largest stride."""
    original = {layer.name: layer for layer in before if layer.kind == "convolution"}
    own = [_ancestors(layers, source) for source in join.inputs]
    for mine, beside in ((own[0] - own[-1], own[-1] - own[0]), (own[-1] - own[0], own[0] - own[-1])):
        factors = {_stride(layers[i]) / _stride(original[layers[i].name]) for i in mine if layers[i].name in original}
        factor = max(factors, default=1.0)
        free = [layers[i] for i in beside if layers[i].name in original and layers[i].name not in named]
        if factor > 1 and free:
            carrier = max(free, key=lambda layer: (_stride(layer), -layer.index))
            if (_stride(carrier) * factor).is_integer():
                return Change("stride", carrier.name, int(_stride(carrier) * factor))
    return None


def _stride(layer: Layer) -> int:
    return int(max(layer.settings["stride"]))


def _ancestors(layers: Layers, index: int) -> set[int]:
    seen, stack = set(), [index]
    while stack:
        current = stack.pop()
        if current >= 0 and current not in seen:
            seen.add(current)
            stack.extend(layers[current].inputs)
    return seen
