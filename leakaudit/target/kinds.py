"""What a layer is: its kind, its shapes, the names of its tensors, and the layers that feed it.

Made by `leakaudit.target.inventory`, which states what holds for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal[
    "convolution",  # settings: stride, padding, dilation, groups, transposed, output_padding, kernel, channels
    "linear",  # settings: in_features, out_features, tokens, transposed (True: parameter stored (in, out))
    "batchnorm",  # settings: batch_statistics, epsilon, running_mean, running_var
    "layernorm",  # settings: normalized_shape, epsilon
    "groupnorm",  # settings: groups, epsilon
    "activation",  # settings: function and its parameters (slope, alpha, beta, low, high)
    "max_pool",  # settings: kernel, stride, padding, ceil_mode
    "avg_pool",  # as max_pool; adaptive pools: adaptive=True
    "global_pool",  # settings: function (mean, max, sum), axes
    "reshape",  # views, flattening, axis permutations
    "slice",
    "add",  # residual; or one input and a trainable tensor in ``bias``
    "multiply",  # gates; or one input and a trainable tensor in ``weight``
    "concat",
    "matmul",  # two activations: attention scores and values
    "softmax",  # settings: axis, log
    "embedding",
    "pad",  # settings: pads (last axis first, as in torch), mode, value
    "affine",  # constants: settings: operations
    "dropout",  # settings: p
    "other",  # settings: operator
]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        index: Position in the inventory.
        name: Module name of its weight where it has one, else kind and number (``max_pool2``). Unique.
        kind: One of `Kind`.
        inputs: Indices of the layers that feed it, -1 for the model's input.
        input_shape: Shape of its first input without the batch axis.
        output_shape: Shape of its output without the batch axis.
        weight: Name of the parameter or buffer that is its weight.
        bias: Name of the parameter or buffer that is its bias.
        settings: Depends on ``kind``, see `Kind`. ``derived_weight`` is true where the weight is computed from several
            tensors (weight norm), so that no name can be given; ``weight_shape`` is the shape as used.
    """

    index: int
    name: str
    kind: Kind
    inputs: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight: str | None = None
    bias: str | None = None
    settings: dict[str, Any] = field(default_factory=dict, hash=False)


def is_sequential(layers: tuple[Layer, ...]) -> bool:
    """Whether every layer feeds only the next one."""
    return all(layer.inputs == (layer.index - 1,) for layer in layers)


def parameter_users(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """Indices of the layers that use each parameter or buffer; more than one where a tensor is shared."""
    users: dict[str, list[int]] = {}
    for layer in layers:
        for name in (layer.weight, layer.bias, *layer.settings.get("tensors", ())):
            if name is not None and layer.index not in users.get(name, []):
                users.setdefault(name, []).append(layer.index)
    return {name: tuple(indices) for name, indices in users.items()}


def consumers(layers: tuple[Layer, ...]) -> dict[int, tuple[int, ...]]:
    """Indices of the layers fed by each layer; -1 is the model's input."""
    fed: dict[int, list[int]] = {index: [] for index in range(-1, len(layers))}
    for layer in layers:
        for source in dict.fromkeys(layer.inputs):
            fed[source].append(layer.index)
    return {index: tuple(found) for index, found in fed.items()}


def unique_names(layers: list[Layer]) -> tuple[Layer, ...]:
    """Number the layers that have no tensor to be named after, and those that share one."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    named: list[Layer] = []
    for layer in layers:
        name = layer.name
        if not name or name in taken:
            stem = name or _stem(layer)
            counts[stem] = counts.get(stem, 0) + 1
            while f"{stem}{counts[stem]}" in taken:
                counts[stem] += 1
            name = f"{stem}{counts[stem]}" if not layer.name else f"{layer.name}#{counts[stem] + 1}"
        taken.add(name)
        named.append(replace(layer, name=name))
    return tuple(named)


def _stem(layer: Layer) -> str:
    if layer.kind == "activation":
        return str(layer.settings["function"])
    return str(layer.settings["operator"]) if layer.kind == "other" else layer.kind
