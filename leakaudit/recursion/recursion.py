"""R-GAP's recursion: from the input of the last layer and its gradient back to the image, layer by layer.

.. math:: z_i = \\sigma^{-1}(x_{i+1}), \\qquad \\delta_i = \\sigma'(z_i) \\circ W_{i+1}^\\top \\delta_{i+1}, \\qquad
          K(\\delta_i)\\,x_i = \\mathrm{vec}(G_i), \\quad W_i x_i = z_i - b_i

Exact where every layer has full column rank. A deficient layer gives its minimum-norm input, which later layers
contradict: the relative residual then jumps by orders of magnitude one layer on, and that names where recovery stops.
Several readings of the last layer are followed side by side; those that a layer contradicts are dropped.

Fails where noise flips the sign of a pre-activation near a kink (relative noise of about 1e-2): δ is then wrong there.

Reference: Zhu & Blaschko, "R-GAP: Recursive Gradient Attack on Privacy", ICLR 2021, arXiv 2010.07733. Deviations:
float64, rows weighted by σ'(z) so that all have the error of x_{i+1}, the solver of `leakaudit.recursion.solve`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakaudit.recursion import last_layer
from leakaudit.recursion.activations import preimage
from leakaudit.recursion.last_layer import Start
from leakaudit.recursion.plan import Plan, Step, settings_of
from leakaudit.recursion.solve import Solution, SolverSettings, null_space_probe, solve
from leakaudit.recursion.system import BilinearMap, Convolution, FullyConnected, LayerSystem
from leakaudit.risk.structural import StructuralRank

JUMP = 1e3
"""Ratio of consecutive layer residuals that means: the input of the layer behind was wrong; chosen: on the authors'
deficient network (arXiv 2010.07733, CNN6-d) they jump from 1e-11 to 0.2."""
CONTRADICTION = 10.0
"""A reading whose worst layer is this many times worse than another's is dropped at the end; chosen, not measured."""
FLOOR = 1e-9
"""Residuals below count as this one, so that rounding does not look like a jump; chosen, above what float64 leaves."""
_KINK = 10.0
"""What is nearer to a kink than this many times the error counts as lying on it; chosen, not measured."""
_LARGEST_KINK = 1e-5
"""Share of the rms value up to which that holds; chosen, not measured."""


@dataclass(frozen=True)
class LayerReport:
    """How one layer went.

    Args:
        name: Of the layer.
        unknowns: Entries of its input.
        deficit: Directions of its input that its equations leave open. Entries that a stride skips count in the image
            only; further inside they influence nothing and are left out.
        method: ``bias``, ``loss``, ``K0``, ``LSMR`` or ``dense``.
        iterations: LSMR iterations.
        residual: Relative residual of its equations.
    """

    name: str
    unknowns: int
    deficit: int
    method: str
    iterations: int
    residual: float


@dataclass(frozen=True, eq=False)
class Recovery:
    """One candidate image.

    Args:
        image: Float64, shaped as one sample.
        label: Class that the reading of the last layer implies, or ``None``.
        layers: From the start to the image.
        scale: Factor on the image relative to its twin that was solved for; 1 for the latter.
    """

    image: Tensor
    label: int | None
    layers: tuple[LayerReport, ...]
    scale: float = 1.0

    @property
    def deficient(self) -> tuple[LayerReport, ...]:
        """Layers whose input is not determined."""
        return tuple(layer for layer in self.layers if layer.deficit > 0)

    @property
    def jump(self) -> tuple[LayerReport, LayerReport] | None:
        """The first layer whose residual is far above that of the one before it, and the one before; or ``None``."""
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if before.method == "loss" and before.residual == 0:  # one equation, always met
                continue
            if after.residual > JUMP * max(before.residual, FLOOR):
                return before, after
        return None


def read_start(plan: Plan) -> list[Start]:
    """Every reading of the layer where the recursion starts; empty where its update is not a gradient of the loss."""
    gradient, weight, bias = plan.start.gradient, plan.start.weight, plan.start.bias
    assert gradient is not None
    assert weight is not None
    if plan.delta is not None:
        return [last_layer.from_bias(gradient, plan.delta)]
    if len(gradient) == 1:
        offset = 0.0 if bias is None else float(bias)
        return last_layer.from_logistic(gradient, weight, offset, plan.tail_slope)
    return last_layer.from_softmax(gradient, weight, bias)


def recover(
    plan: Plan,
    starts: Sequence[Start],
    settings: SolverSettings,
    poll: Callable[[float, float], None] = lambda fraction, residual: None,
) -> list[Recovery]:
    """Follow every reading back to the image; drop those that a layer contradicts and another does not.

    Args:
        plan: The way.
        starts: Readings of the starting layer, at least one.
        settings: Effort of the linear solver.
        poll: Told the fraction done and the last residual; raises to stop.

    Returns:
        Candidates, at least one. Twins of a homogeneous network are not solved twice, only scaled.
    """
    leaders = _leaders(starts) if plan.homogeneous else list(starts)
    walks = [_Walk(plan, start) for start in leaders]
    for position, step in enumerate(plan.steps):
        for walk in walks:
            walk.back(step, settings, partial(poll, position / len(plan.steps), walk.residual))
        best = min(walk.residual for walk in walks)
        walks = [walk for walk in walks if walk.residual <= JUMP * max(best, FLOOR)]
    best = min(walk.worst for walk in walks)
    found: list[Recovery] = []
    for walk in (walk for walk in walks if walk.worst <= CONTRADICTION * max(best, FLOOR)):
        image = Recovery(walk.value, walk.start.label, tuple(walk.reports))
        twins = [s for s in starts if _are_twins(s, walk.start)] if plan.homogeneous else [walk.start]
        for twin in twins:
            scale = float(twin.features.norm() / walk.start.features.norm())
            found.append(replace(image, image=scale * walk.value, scale=scale))
    return found


def _are_twins(one: Start, other: Start) -> bool:
    """Whether two readings differ by a positive factor: then so do their images, in a homogeneous network."""
    return one.label == other.label and bool((one.features @ other.features) > 0)


def _leaders(starts: Sequence[Start]) -> list[Start]:
    leaders: list[Start] = []
    for start in starts:
        if not any(_are_twins(start, leader) for leader in leaders):
            leaders.append(start)
    return leaders


class State:
    """Between two layers: the tensor's value, its gradient, and how much each entry of the value is worth."""

    def __init__(self, value: Tensor, delta: Tensor, trust: Tensor, residual: float) -> None:
        self.value, self.delta, self.trust, self.residual = value, delta, trust, residual
        self.reports: list[LayerReport] = []

    def back(self, step: Step, settings: SolverSettings, poll: Callable[[], None]) -> None:
        """Go back through one layer."""
        if step.action == "reorder":
            self._reorder(step)
        elif step.action == "affine":
            assert step.scale is not None
            assert step.shift is not None
            self.value = (self.value.reshape(step.input_shape) - step.shift) / step.scale
            self.delta = self.delta.reshape(step.input_shape) * step.scale
            self.trust = self.trust.reshape(step.input_shape) * step.scale.abs()
        elif step.action == "activation":
            self._activation(step)
        else:
            self.solve(step, settings, poll)

    def _reorder(self, step: Step) -> None:
        for name in ("value", "delta", "trust"):
            tensor = getattr(self, name)
            moved = torch.empty_like(tensor).flatten()
            moved[step.order] = tensor.flatten()
            setattr(self, name, moved.reshape(step.input_shape))

    def _activation(self, step: Step) -> None:
        size = float(self.value.square().mean().sqrt())
        tolerance = size * min(_KINK * max(self.residual, 1e-14), _LARGEST_KINK)
        inverse = preimage(str(step.layer.settings["function"]), settings_of(step), self.value, tolerance)
        self.value = inverse.z
        self.delta = inverse.slope * self.delta
        self.trust = self.trust * torch.where(inverse.known, inverse.slope, 0.0)

    def solve(self, step: Step, settings: SolverSettings, poll: Callable[[], None], *, image: bool = False) -> None:
        """Go back through a weighted layer; ``image``: its input is the image, of which every entry counts."""
        assert step.weight is not None
        system = build_system(step, self.value, self.delta, self.trust)
        rank = step.rank
        full = rank is not None and rank.gradient_rank == rank.unknowns
        solution = solve(system, full, settings, poll)
        matters = torch.ones_like(solution.x, dtype=torch.bool) if image else system.map.reach()
        deficit = _deficit(rank, system) - int((~matters).sum()) if rank is not None else 0
        masked = not bool((system.trust > 0).all())
        if deficit == 0 and solution.method != "K0" and (masked or rank is None or image):
            deficit = null_space_probe(system, matters, settings, poll)
        self.delta = system.map.input_gradient(system.delta, step.weight)
        self.value, self.residual = solution.x, solution.residual
        self.trust = matters.to(solution.x.dtype)
        self.reports.append(_report(step, solution, deficit))


class _Walk(State):
    """The state of one reading of the last layer on its way back."""

    def __init__(self, plan: Plan, start: Start) -> None:
        assert plan.start.weight is not None
        self.start = start
        self.last_step = next((step for step in reversed(plan.steps) if step.action == "solve"), None)
        value = start.features.reshape(plan.start.input_shape)
        delta = (plan.start.weight.T @ start.delta).reshape(value.shape)
        super().__init__(value, delta, torch.ones_like(value), start.residual)
        method = "bias" if plan.delta is not None else "loss"
        self.reports = [LayerReport(plan.start.layer.name, value.numel(), 0, method, 0, start.residual)]

    @property
    def worst(self) -> float:
        """Largest residual so far."""
        return max(report.residual for report in self.reports)

    def solve(self, step: Step, settings: SolverSettings, poll: Callable[[], None], *, image: bool = False) -> None:
        """As for any state; the last weighted layer's input counts as the image."""
        super().solve(step, settings, poll, image=image or step is self.last_step)


def _report(step: Step, solution: Solution, deficit: int) -> LayerReport:
    count = solution.x.numel()
    return LayerReport(step.layer.name, count, deficit, solution.method, solution.iterations, solution.residual)


def build_system(step: Step, outputs: Tensor, delta: Tensor, trust: Tensor | None = None) -> LayerSystem:
    """The equations of one layer.

    Args:
        step: A convolution or linear layer.
        outputs: Its output z, bias included, in any shape of the right size.
        delta: ∂ℓ/∂z.
        trust: Worth of each output, 0 where it is not known; all 1 by default.
    """
    assert step.weight is not None
    shape = step.layer.output_shape
    outputs, delta = outputs.reshape(shape), delta.reshape(shape)
    trust = torch.ones_like(outputs) if trust is None else trust.reshape(shape)
    if step.bias is not None:
        outputs = outputs - step.bias
    gradient = step.gradient
    bilinear: BilinearMap
    if step.layer.kind == "linear":
        bilinear = FullyConnected(step.input_shape, shape, step.weight.shape)
    else:
        bilinear = Convolution(step.input_shape, shape, step.weight.shape, step.layer.settings, step.pads)
        border = bilinear.offset()
        if border is not None:
            outputs = outputs - bilinear.convolve(border, step.weight)
            gradient = None if gradient is None else gradient - bilinear.correlate(border, delta)
    usable = bool((trust > 0).any())
    return LayerSystem(bilinear, step.weight, delta, gradient, outputs if usable or gradient is None else None, trust)


def _deficit(rank: StructuralRank, system: LayerSystem) -> int:
    """Structural deficit with the outputs that are known; ReLU and saturation hide some."""
    known = system.trust > 0
    weight_rank = min(rank.weight_rank, int(known.sum())) if system.outputs is not None else 0
    if system.gradient is None:
        return rank.unknowns - weight_rank
    overlap = rank.overlap if bool(known.all()) else min(rank.overlap, _identities(system.delta != 0, ~known))
    return rank.unknowns - replace(rank, overlap=overlap).rank_with(weight_rank)


def _identities(support: Tensor, hidden: Tensor) -> int:
    """Pairs of filters (f', f) with z_f' known wherever δ_f ≠ 0: ⟨w_f', G_f⟩ = ⟨δ_f, z_f'⟩ is then redundant."""
    rows = support.shape[0] if support.dim() > 1 else support.numel()
    blocked = hidden.reshape(rows, -1).double() @ support.reshape(rows, -1).double().T
    return int((blocked == 0).sum())
