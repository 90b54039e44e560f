"""Whether, and along which layers, the recursion can go from the update to the image; nothing is solved here.

Claim. The recursion starts at the trained biased linear layer nearest to the input (there δ = ∂ℓ/∂b, whatever comes
behind it), or else at the last layer. From there back to the image every layer must be one of

* a convolution or linear layer, to be solved for its input;
* an activation whose derivative is a function of its output (`leakaudit.recursion.activations`);
* a reordering of entries, or an addition and multiplication by known numbers, BatchNorm with running statistics
included.

Anything else between start and image raises `Obstacle`, which names the layer and the cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from leakaudit.observation import Observation
from leakaudit.recursion import activations
from leakaudit.recursion.obstacles import UNREADABLE, Obstacle, operator_of, stop_at
from leakaudit.recursion.system import Pad
from leakaudit.risk.structural import StructuralRank
from leakaudit.risk.systems import layer_system
from leakaudit.target.inventory import layers_and_outputs
from leakaudit.target.kinds import Layer, consumers, parameter_users
from leakaudit.target.parts import is_finite
from leakaudit.target.replay import entry_order, replay, scale_and_shift
from leakaudit.target.target import Target
from leakaudit.target.trace import Trace, trace

_WEIGHTED = ("convolution", "linear")
_ELEMENTWISE = ("affine", "batchnorm", "add", "multiply")


@dataclass(frozen=True, eq=False)
class Step:
    """One layer to go back through, with what that takes.

    Args:
        layer: The layer; of a padded convolution, the convolution.
        action: What to do.
        weight: Its weight as the operator takes it, float64, of a weighted layer.
        bias: Its bias, float64, or ``None``.
        gradient: The update of its weight, shaped as ``weight``, or ``None`` where it is not trained.
        pads: Padding layers right in front of it.
        input_shape: Shape of what is solved for: the layer's input before those.
        rank: Its structural rank, or ``None`` where padding repeats entries.
        order: For ``reorder``: the input entry that each output entry copies.
        scale: For ``affine``: a of y = a∘x + b.
        shift: For ``affine``: b.
        slope: Trained slope of a PReLU, broadcastable against one sample.
    """

    layer: Layer
    action: Literal["solve", "activation", "reorder", "affine", "sum"]
    input_shape: tuple[int, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    gradient: Tensor | None = None
    pads: tuple[Pad, ...] = ()
    rank: StructuralRank | None = None
    order: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    slope: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """The way from the update to the image.

    Args:
        start: The linear layer at which the recursion starts; its ``gradient`` is never ``None``.
        delta: ∂ℓ/∂b of the start where it has a trained bias, else ``None``: the loss has to be inverted.
        tail_slope: Slope below zero of a LeakyReLU behind a last layer with one logit, 1 without one.
        steps: Layers from the start, not included, to the image.
        homogeneous: Whether scaling the image scales every tensor on the way: no bias, no shift.
        remarks: Facts for the report.
    """

    start: Step
    delta: Tensor | None
    tail_slope: float
    steps: tuple[Step, ...]
    homogeneous: bool
    remarks: tuple[str, ...] = field(default=())


def record(target: Target, observation: Observation) -> Planner:
    """The recorded model, ready to be planned on.

    Raises:
        Obstacle: The update is zero or not finite.
        TraceError: The model cannot be recorded.
    """
    _check_update(observation.update)
    with _dropout_as_client(target.module, observation):
        recorded = trace(target, batch_size=1)
    return Planner(target, observation, recorded)


def _check_update(update: Mapping[str, Tensor]) -> None:
    for name, tensor in update.items():
        if not is_finite(tensor):
            raise Obstacle(f"the update of {name} has NaN or infinite values", "share an update with finite numbers")
    if not any(bool(tensor.any()) for tensor in update.values()):
        raise Obstacle("the update is zero in every tensor: this sample leaves no trace in it")


@contextmanager
def _dropout_as_client(module: nn.Module, observation: Observation) -> Iterator[None]:
    """Dropout on where the client's was, so that the recording shows where it stands; restored afterwards."""
    layers = [m for m in module.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    before = [m.training for m in layers]
    for layer in layers:
        layer.train(observation.protocol.mode == "train")
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.train(training)


class Planner:
    """Reads one recorded model; use once."""

    def __init__(self, target: Target, observation: Observation, recorded: Trace) -> None:
        self.target, self.observation, self.trace = target, observation, recorded
        self.layers, self.outputs = layers_and_outputs(recorded)
        self.users = parameter_users(self.layers)
        self.fed = consumers(self.layers)

    def plan(self) -> Plan:
        """The way along a chain; raises `Obstacle` where there is none."""
        start = next((layer for layer in self.layers if self.has_trained_bias(layer)), None)
        tail_slope = 1.0
        if start is None:
            start, tail_slope = self._last_layer()
        steps = self._way_back(start)
        first = self.weighted(start, ())
        assert first.gradient is not None
        delta = self.update(start.bias) if self.has_trained_bias(start) else None
        delta = None if delta is None else delta.flatten()
        if not bool(first.gradient.any()) or (delta is not None and not bool(delta.any())):
            raise Obstacle(f"the update of {start.name} is zero: this sample leaves no trace in it")
        for step in steps:
            if step.gradient is not None and not bool(step.gradient.any()):
                raise Obstacle(
                    f"the update of {step.layer.name} is zero: no gradient reaches it, this sample leaves no trace"
                )
        return Plan(first, delta, tail_slope, steps, _is_homogeneous(steps), self._remarks(start, steps))

    # ---- where to start ----

    def has_trained_bias(self, layer: Layer) -> bool:
        """Whether it is a linear layer of one token whose weight and bias are shared, each on its own."""
        return (
            layer.kind == "linear"
            and layer.settings["tokens"] == 1
            and {layer.bias, layer.weight} <= self.observation.update.keys()
            and len(self.users[str(layer.bias)]) == len(self.users[str(layer.weight)]) == 1
            and not any(key in layer.settings for key in ("weight_part", "bias_part", "derived_weight", "derived_bias"))
            and self._has_bias_of_each_unit(layer)
        )

    def _has_bias_of_each_unit(self, layer: Layer) -> bool:
        """Whether the bias has a number for every unit; the derivative of a shared one is only their sum."""
        bias = self.observation.update.get(str(layer.bias))
        return bias is not None and bias.numel() == layer.settings["out_features"]

    def _last_layer(self) -> tuple[Layer, float]:
        """The last layer, where nothing but views and a log-softmax, or a LeakyReLU on one logit, follows it."""
        weighted = [layer for layer in self.layers if layer.kind in _WEIGHTED]
        if not weighted:
            raise Obstacle("no convolution and no linear layer: there is nothing to solve")
        last = weighted[-1]
        if last.kind != "linear" or last.settings["tokens"] != 1:
            raise Obstacle(f"no linear layer with a trained bias, and the last layer, {last.name}, is not a linear one")
        if not self.target.task.plain:
            raise Obstacle(
                f"the last layer, {last.name}, has no trained bias, and the loss is not plain cross-entropy: its "
                "equations are of that"
            )
        if last.weight not in self.observation.update or len(self.users[str(last.weight)]) != 1:
            raise Obstacle(
                f"the gradient of the last layer, {last.name}, is not shared on its own: nothing to start from"
            )
        slope = 1.0
        for layer in self.layers[last.index + 1 :]:
            one_logit = self.target.binary and last.settings["out_features"] == 1 and last.bias is None
            if layer.kind == "activation" and layer.settings["function"] == "leaky_relu" and one_logit and slope == 1:
                slope = float(layer.settings["slope"])
            elif not (_is_view(layer) or (_is_log_softmax(layer) and not self.target.binary)):
                raise Obstacle(
                    f"{layer.name} ({operator_of(layer)}) behind the last layer {last.name}, without trained bias: "
                    "the loss cannot be inverted"
                )
        return last, slope

    # ---- the way back ----

    def _way_back(self, start: Layer) -> tuple[Step, ...]:
        steps: list[Step] = []
        index = start.index - 1
        self._check_path(start)
        while index >= 0:
            layer = self.layers[index]
            self._check_path(layer)
            if layer.kind in _WEIGHTED:
                pads = self.pads_before(layer)
                for pad in pads:
                    self._check_path(pad)
                steps.append(self.weighted(layer, pads))
                index -= len(pads)
            else:
                steps.append(self.parameter_free(layer))
            index -= 1
        return tuple(steps)

    def _check_path(self, layer: Layer) -> None:
        source = layer.index - 1
        if layer.inputs != (source,):
            raise Obstacle(
                f"{layer.name} ({operator_of(layer)}) joins several paths: the closed form needs a plain chain"
            )
        if self.fed[source] != (layer.index,):
            where = self.layers[source].name if source >= 0 else "the input"
            raise Obstacle(
                f"the output of {where} also takes a path around {layer.name}: the closed form needs a plain chain"
            )

    def pads_before(self, layer: Layer) -> tuple[Layer, ...]:
        """Padding layers that feed a convolution alone."""
        pads: list[Layer] = []
        source = layer.inputs[0] if layer.kind == "convolution" else -1
        while source >= 0 and self.layers[source].kind == "pad" and len(self.fed[source]) == 1:
            if len(self.layers[source].settings["pads"]) > 2 * len(layer.settings["kernel"]):
                break
            pads.insert(0, self.layers[source])
            source = self.layers[source].inputs[0]
        return tuple(pads)

    def weighted(self, layer: Layer, pads: tuple[Layer, ...]) -> Step:
        """The step back through a convolution or linear layer; raises `Obstacle` where its tensors cannot be read."""
        gradient = self.weight_gradient(layer)
        assert layer.weight is not None
        counted = all(pad.settings["mode"] == "constant" for pad in pads)
        return Step(
            layer=layer,
            action="solve",
            input_shape=(pads[0] if pads else layer).input_shape,
            weight=self._as_used(layer, self.trace.values[layer.weight]),
            bias=self._bias(layer),
            gradient=gradient,
            pads=tuple(Pad(tuple(p.settings["pads"]), p.settings["mode"], p.settings["value"] or 0.0) for p in pads),
            rank=layer_system(layer, pads) if counted else None,
        )

    def weight_gradient(self, layer: Layer) -> Tensor | None:
        """The shared gradient of a layer's weight as the map takes it, in float64; ``None`` where it is not shared.

        Raises:
            Obstacle: The layer's tensors cannot be read.
        """
        for key, cause in UNREADABLE.items():
            if layer.settings.get(key):
                raise Obstacle(f"{layer.name}: {cause}")
        if layer.weight is None:
            raise Obstacle(f"{layer.name}: its weight has no name in the model")
        shared = [self.layers[i].name for i in self.users[layer.weight] if i != layer.index]
        if shared:
            raise Obstacle(
                f"{layer.name} shares its weight with {shared[0]}: the update is the sum of both gradients, which "
                "cannot be separated"
            )
        gradient = self.observation.update.get(str(layer.weight))
        return None if gradient is None else self._as_used(layer, gradient)

    def _as_used(self, layer: Layer, tensor: Tensor) -> Tensor:
        """A weight, or its update, as the map takes it: (F, n), or the convolution's own shape."""
        tensor = tensor.detach().cpu().double()
        if layer.kind == "linear":
            features, filters = layer.settings["in_features"], layer.settings["out_features"]
            if layer.settings["transposed"]:
                return tensor.reshape(features, filters).T.contiguous()
            return tensor.reshape(filters, features)
        if tuple(tensor.shape) != tuple(layer.settings["weight_shape"]):
            raise Obstacle(f"{layer.name}: its weight reaches the operator rearranged")
        return tensor

    def _bias(self, layer: Layer) -> Tensor | None:
        if layer.bias is None:
            return None
        bias = self.trace.values[layer.bias].detach().cpu().double().flatten()
        return bias.reshape(-1, *(1 for _ in layer.output_shape[1:])) if layer.kind == "convolution" else bias

    def parameter_free(self, layer: Layer) -> Step:
        """The step back through any other layer of one input; raises `Obstacle` where there is none."""
        if layer.kind == "activation":
            return self._activation(layer)
        source, output = self.nodes(layer)
        if layer.kind == "reshape":
            order = entry_order(self.trace, source, output)
            if order is not None:
                return Step(layer, "reorder", layer.input_shape, order=order)
        elif layer.kind in _ELEMENTWISE and not layer.settings.get("batch_statistics"):
            found = scale_and_shift(self.trace, source, output)
            if found is not None and bool((found[0] != 0).all()):
                return Step(layer, "affine", layer.input_shape, scale=found[0], shift=found[1])
        raise stop_at(layer)

    def _activation(self, layer: Layer) -> Step:
        """Checks the inverse against the recorded operator before it is relied upon."""
        function = str(layer.settings["function"])
        slope = None
        if layer.weight is not None:
            slope = self.trace.values[layer.weight].detach().cpu().double()
            slope = slope.reshape(-1, *(1 for _ in layer.input_shape[1:]))
        step = Step(layer, "activation", layer.input_shape, slope=slope)
        if function in activations.RECOVERABLE and (function != "prelu" or slope is not None):
            z = torch.linspace(-3.0, 3.0, prod(layer.input_shape), dtype=torch.float64).reshape(layer.input_shape)
            source, output = self.nodes(layer)
            y = replay(self.trace, source, output, z[None])[0]
            inverse = activations.preimage(function, settings_of(step), y)
            if torch.allclose(inverse.z[inverse.known], z[inverse.known], rtol=1e-6, atol=1e-6):
                return step
        raise stop_at(layer)

    def nodes(self, layer: Layer) -> tuple[fx.Node, fx.Node]:
        """The recorded values in front of a layer with one input, and behind it."""
        (source,) = layer.inputs
        return self.trace.input if source < 0 else self.outputs[source], self.outputs[layer.index]

    def update(self, name: str | None) -> Tensor | None:
        """The shared gradient of a tensor in float64, or ``None``."""
        if name is None or name not in self.observation.update:
            return None
        return self.observation.update[name].detach().cpu().double()

    def _remarks(self, start: Layer, steps: tuple[Step, ...]) -> tuple[str, ...]:
        frozen = [s.layer.name for s in steps if s.action == "solve" and s.gradient is None]
        remarks = [f"{name} is not trained: weight constraints only." for name in frozen]
        trained = self.has_trained_bias(start)
        if start.index + 1 < len(self.layers) and trained:
            remarks.insert(
                0, f"Started at layer {start.name}, whose bias gives its gradient; nothing behind it matters."
            )
        if not trained and self.target.binary and _is_homogeneous(steps):
            remarks.append("The scale of the image rests on the update being neither clipped nor rescaled.")
        return tuple(remarks)


def settings_of(step: Step) -> Mapping[str, object]:
    """Settings of an activation, with the trained slope of a PReLU as a tensor."""
    return step.layer.settings if step.slope is None else {**step.layer.settings, "slope": step.slope}


def _is_log_softmax(layer: Layer) -> bool:
    return layer.kind == "softmax" and bool(layer.settings["log"])


def _is_view(layer: Layer) -> bool:
    return layer.kind == "reshape" and not layer.settings["permutes"]


def _is_homogeneous(steps: tuple[Step, ...]) -> bool:
    return all(
        (step.action == "solve" and step.bias is None and all(pad.value == 0 for pad in step.pads))
        or step.action == "reorder"
        or (step.action == "affine" and step.shift is not None and not bool(step.shift.any()))
        or (step.action == "activation" and step.layer.settings["function"] in activations.HOMOGENEOUS)
        for step in steps
    )
