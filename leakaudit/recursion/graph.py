"""The recursion on graphs with several paths, started at trained biased linear layers.

Claim. A biased linear layer gives its input x and the gradient δ at its output exactly, wherever it stands. Backwards
through the layer graph,

* δ at a tensor is the sum of what its users pass back, known if each of theirs is;
* a tensor's value follows from one user: through the inverse of an activation or a rearrangement, from the equations of
  a convolution or linear layer (gradient constraints need δ, weight constraints the output), or from a sum
  y = p + q once q can be computed forward.

So a residual block is undone where its last convolution's gradient constraints have full rank: they give that layer's
input, hence the branch, hence the shortcut. A layer whose output also goes elsewhere loses its gradient constraints and
is inverted by its outputs alone.

Fails with `Obstacle`, which names the layer nearest to the loss that stops it, and the layer whose input is exact all
the same. Reference: Zhu & Blaschko, "R-GAP", ICLR 2021, for chains; the graph is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakaudit.recursion import last_layer
from leakaudit.recursion.obstacles import Obstacle, operator_of
from leakaudit.recursion.plan import Planner, Step
from leakaudit.recursion.recursion import LayerReport, Recovery, State, build_system
from leakaudit.recursion.solve import SolverSettings
from leakaudit.target.kinds import Layer
from leakaudit.target.pointwise import INVERTIBLE
from leakaudit.target.replay import replay

IMAGE = -1
"""Index that stands for the image, by definition: layers count from 0."""


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a tensor: the layer, and how to go back through it, or ``None`` with the obstacle that it is."""

    layer: Layer
    step: Step | None
    obstacle: Obstacle | None = None


@dataclass(frozen=True, eq=False)
class GraphPlan:
    """Which tensors follow, and how.

    Args:
        planner: The recorded model.
        uses: Uses of every tensor, by the index of the layer that computes it; -1 is the image.
        starts: Indices of the biased linear layers.
        way: For every tensor whose value follows, the use that gives it, from the loss to the image.
        deltas: Tensors at which the gradient is known.
    """

    planner: Planner
    uses: dict[int, list[Use]]
    starts: frozenset[int]
    way: dict[int, Use]
    deltas: frozenset[int]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Facts for the report."""
        names = ", ".join(self.planner.layers[index].name for index in sorted(self.starts))
        return (f"Started at {names}, whose biases give their gradients, and gone back through the graph.",)


@dataclass(frozen=True)
class Exposed:
    """A linear layer whose input the update gives away.

    Args:
        name: Of the layer.
        size: Values of its input.
        misfit: ‖G - δ xᵀ‖ / ‖G‖: rounding for one sample's plain gradient.
    """

    name: str
    size: int
    misfit: float


def exposed(planner: Planner) -> Exposed | None:
    """The biased linear layer nearest to the image, its input read from the update; ``None`` where none is live."""
    for layer in planner.layers:
        delta = planner.update(layer.bias) if planner.has_trained_bias(layer) else None
        if delta is None or not bool(delta.any()):
            continue
        gradient = planner.weight_gradient(layer)
        assert gradient is not None
        found = last_layer.from_bias(gradient, delta.flatten())
        return Exposed(layer.name, found.features.numel(), found.residual)
    return None


def make_graph_plan(planner: Planner) -> GraphPlan:
    """Find the tensors that follow from the biased linear layers.

    Raises:
        Obstacle: The image is not among them.
    """
    starts = frozenset(layer.index for layer in planner.layers if planner.has_trained_bias(layer))
    if not starts:
        raise Obstacle("no linear layer with a trained bias: nothing to start from on a graph with several paths")
    uses = _uses(planner)
    values: dict[int, bool] = {}  # whether known in every entry
    way: dict[int, Use] = {}
    deltas: set[int] = set()
    blocked: list[tuple[int, Use]] = []
    for tensor in range(len(planner.layers) - 1, IMAGE - 1, -1):
        for use in uses[tensor]:
            full = _gives(planner, use, tensor, starts, values, deltas)
            if full is not None:
                values[tensor], way[tensor] = full, use
                break
        if uses[tensor] and all(_passes(use, starts, values, deltas) for use in uses[tensor]):
            deltas.add(tensor)
        known = [use for use in uses[tensor] if use.layer.index in values]
        if known and tensor not in values:
            blocked.append((tensor, known[0]))
    if not values.get(IMAGE):
        first = planner.layers[min(starts)]
        why = [use for tensor, use in blocked if not _forward(planner, tensor, values)]
        cause = (why[0].obstacle or _short(why[0])).message if why else "no path leads on"
        size = first.settings["in_features"]
        raise Obstacle(f"{cause}; the input of {first.name} ({size} values) is exact all the same")
    return GraphPlan(planner, uses, starts, way, frozenset(deltas))


def _uses(planner: Planner) -> dict[int, list[Use]]:
    """Every use of every tensor; padding counts as part of the convolution that it feeds."""
    uses: dict[int, list[Use]] = {index: [] for index in range(IMAGE, len(planner.layers))}
    absorbed: set[int] = set()
    for layer in reversed(planner.layers):
        if layer.index in absorbed:
            continue
        sources, use = layer.inputs, Use(layer, None)
        try:
            pads = planner.pads_before(layer)
            absorbed |= {pad.index for pad in pads}
            sources = (pads[0] if pads else layer).inputs
            use = Use(layer, _step(planner, layer, pads))
        except Obstacle as found:
            use = Use(layer, None, found)
        for source in dict.fromkeys(sources):
            uses[source].append(use)
    return uses


def _step(planner: Planner, layer: Layer, pads: tuple[Layer, ...]) -> Step:
    """How to go back through a layer; raises `Obstacle` where that is not known."""
    if layer.kind in ("convolution", "linear"):
        return planner.weighted(layer, pads)
    if len(layer.inputs) == 1:
        return planner.parameter_free(layer)
    shapes = {planner.layers[i].output_shape if i >= 0 else planner.layers[0].input_shape for i in layer.inputs}
    distinct = len(set(layer.inputs)) == len(layer.inputs)
    if layer.kind == "add" and "sign" not in layer.settings and distinct and shapes == {layer.output_shape}:
        return Step(layer, "sum", layer.input_shape)
    raise Obstacle(f"the recursion stops at layer {layer.name} ({operator_of(layer)}): it joins several paths")


def _short(use: Use) -> Obstacle:
    rank = use.step.rank if use.step is not None else None
    cause = "its operands cannot be told apart" if rank is None else "its equations do not suffice"
    if rank is not None and rank.deficit > 0:
        cause = f"its equations leave {rank.deficit} of {rank.unknowns} directions of its input open"
    return Obstacle(f"the recursion stops at layer {use.layer.name} ({operator_of(use.layer)}): {cause}")


def _passes(use: Use, starts: frozenset[int], values: dict[int, bool], deltas: set[int]) -> bool:
    """Whether the gradient that a use passes back is known."""
    if use.step is None:
        return False
    if use.layer.index in starts:
        return True
    return use.layer.index in deltas and (use.step.action != "activation" or use.layer.index in values)


def _gives(
    planner: Planner, use: Use, tensor: int, starts: frozenset[int], values: dict[int, bool], deltas: set[int]
) -> bool | None:
    """Whether a use gives its operand in every entry (True), in some (False), or not (None)."""
    step, index = use.step, use.layer.index
    if step is None:
        return None
    if index in starts:
        return True
    if step.action == "solve":
        rank = step.rank
        by_gradient = step.gradient is not None and index in deltas
        if rank is None or not (by_gradient or index in values):
            return None
        outputs = 0 if index not in values else rank.weight_rank if values[index] else rank.weight_rank // 2
        reached = rank.rank_with(outputs) if by_gradient else outputs
        return True if reached == rank.unknowns else None
    if index not in values:
        return None
    if step.action == "sum":
        others = [source for source in use.layer.inputs if source != tensor]
        computed = len(others) == len(use.layer.inputs) - 1 and all(_forward(planner, o, values) for o in others)
        return values[index] if computed else None
    if step.action == "activation":
        return values[index] and use.layer.settings["function"] in INVERTIBLE
    return values[index]


def _forward(planner: Planner, tensor: int, values: dict[int, bool]) -> bool:
    """Whether a tensor is known in every entry, or can be computed from such tensors."""
    if values.get(tensor):
        return True
    sources = planner.layers[tensor].inputs if tensor >= 0 else ()
    summed = tensor >= 0 and (len(sources) == 1 or planner.layers[tensor].kind == "add")
    return summed and all(_forward(planner, source, values) for source in sources)


def recover_graph(
    plan: GraphPlan, settings: SolverSettings, poll: Callable[[float, float], None] = lambda fraction, residual: None
) -> Recovery:
    """Compute every tensor on the way to the image.

    Args:
        plan: From `make_graph_plan`.
        settings: Effort of the linear solver.
        poll: Told the fraction done and the last residual; raises to stop.
    """
    walk = _GraphWalk(plan, settings)
    for position, tensor in enumerate(range(len(plan.planner.layers) - 1, IMAGE - 1, -1)):
        walk.visit(tensor, partial(poll, position / (len(plan.planner.layers) + 1), walk.residual))
    return Recovery(walk.values[IMAGE], None, tuple(walk.reports))


class _GraphWalk:
    """Values, gradients and trust of the tensors reached so far."""

    def __init__(self, plan: GraphPlan, settings: SolverSettings) -> None:
        self.plan, self.settings = plan, settings
        self.values: dict[int, Tensor] = {}
        self.trust: dict[int, Tensor] = {}
        self.deltas: dict[int, Tensor] = {}
        self.reports: list[LayerReport] = []
        self.residual = 0.0

    def visit(self, tensor: int, poll: Callable[[], None]) -> None:
        """Value and gradient of one tensor; those of its users are there."""
        if tensor in self.plan.way:
            state = self._value(tensor, self.plan.way[tensor], poll)
            self.values[tensor], self.trust[tensor] = state.value, state.trust
        if tensor in self.plan.deltas:
            parts = [self._passed(use) for use in self.plan.uses[tensor]]
            self.deltas[tensor] = torch.stack([part.reshape(parts[0].shape) for part in parts]).sum(0)

    def _value(self, tensor: int, use: Use, poll: Callable[[], None]) -> State:
        step, index = use.step, use.layer.index
        assert step is not None
        if index in self.plan.starts:
            return self._start(step)
        state = self._state(use)
        if step.action == "sum":
            (other,) = (source for source in use.layer.inputs if source != tensor)
            state.value = state.value - self._forward(other).reshape(state.value.shape)
        elif step.action == "solve":
            known = step if index in self.deltas else replace(step, gradient=None)
            state.solve(known, self.settings, poll, image=tensor == IMAGE)
            self.reports += state.reports
            self.residual = state.residual
        else:
            state.back(step, self.settings, poll)
        return state

    def _state(self, use: Use) -> State:
        shape, index = use.layer.output_shape, use.layer.index
        zero = torch.zeros(shape, dtype=torch.float64)
        value, delta = self.values.get(index, zero), self.deltas.get(index, zero)
        return State(
            value.reshape(shape), delta.reshape(shape), self.trust.get(index, zero).reshape(shape), self.residual
        )

    def _start(self, step: Step) -> State:
        assert step.gradient is not None
        delta = self.plan.planner.update(step.layer.bias)
        assert delta is not None
        start = last_layer.from_bias(step.gradient, delta.flatten())
        self.residual = max(self.residual, start.residual)
        count = start.features.numel()
        self.reports.append(LayerReport(step.layer.name, count, 0, "bias", 0, start.residual))
        value = start.features.reshape(step.input_shape)
        return State(value, torch.zeros_like(value), torch.ones_like(value), self.residual)

    def _passed(self, use: Use) -> Tensor:
        """What a use adds to the gradient at its operand."""
        step = use.step
        assert step is not None
        if use.layer.index in self.plan.starts:
            delta = self.plan.planner.update(use.layer.bias)
            assert delta is not None
            assert step.weight is not None
            return (step.weight.T @ delta.flatten()).reshape(step.input_shape)
        state = self._state(use)
        if step.action == "sum":
            return state.delta
        if step.action == "solve":
            assert step.weight is not None
            system = build_system(step, state.value, state.delta)
            return system.map.input_gradient(system.delta, step.weight)
        state.back(step, self.settings, lambda: None)
        return state.delta

    def _forward(self, tensor: int) -> Tensor:
        """Value of a tensor, computed from known ones where it is not known itself."""
        if tensor in self.values and bool((self.trust[tensor] > 0).all()):
            return self.values[tensor]
        planner = self.plan.planner
        layer = planner.layers[tensor]
        inputs = [self._forward(source) for source in layer.inputs]
        if len(inputs) > 1:
            return torch.stack([value.reshape(layer.output_shape) for value in inputs]).sum(0)
        source, output = planner.nodes(layer)
        return replay(planner.trace, source, output, inputs[0].reshape(planner.trace.shape(source)))[0]
