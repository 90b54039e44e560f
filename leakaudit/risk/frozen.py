"""Models of which some layers are not trained: what their update determines, measured where cheap, else bounded.

Claim. The rank of ``∂g/∂x`` over the trained tensors is at most the smallest cut r of `leakaudit.risk.update_flow`, so
r + `SPARE` random directions of x are enough to measure it: ``rank J = rank JΩ`` for almost every Ω. It is measured in
float64 at several random inputs, since with ReLU and max-pooling the units that are active decide; where the inputs, or
two tolerances for what counts as zero, disagree, the lowest and the highest count are both said.

Fails, and leaves the bound, where the matrix or its decomposition is too large for the time that is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.func import grad, jvp, vmap

from leakaudit.document.counting import grouped
from leakaudit.risk.jacobian import LARGEST_MATRIX, RELATIVE_TOLERANCE, Subgraph, load_forward_mode, rank_above
from leakaudit.risk.update_flow import UpdateFlow
from leakaudit.target.kinds import Layer
from leakaudit.target.pointwise import PIECEWISE_LINEAR

if TYPE_CHECKING:
    from leakaudit.risk.segment import Segment

SPARE = 5
"""Random directions beyond the bound; chosen: one is enough with probability one."""
POINTS = 8
"""Random inputs at which networks of linear pieces are measured; chosen for time."""
FEWEST_POINTS = 3
"""Of these, how many must have been measured for the rank to be called known; chosen."""
STRICT_TOLERANCE = 1e-13
"""Relative singular value in float64 below which rounding is all there is; chosen, 450 times its precision. Counts that
differ between this and `RELATIVE_TOLERANCE` leave the rank undecided."""
OPERATIONS_PER_SECOND = 4e9
"""Of a decomposition on one core; chosen, on the slow side, to refuse what would not end in time."""

_WEIGHTED = ("convolution", "linear")


@dataclass(frozen=True)
class Determined:
    """Directions of the input that an update determines, counted at several random inputs.

    Args:
        lowest: Of the counts.
        highest: Of the counts.
        points: Random inputs that were tried.
    """

    lowest: int
    highest: int
    points: int


def partly_frozen(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Names of the convolutions, linear layers and normalisations whose weight is not trained."""
    kinds = (*_WEIGHTED, "batchnorm", "layernorm", "groupnorm")
    return tuple(layer.name for layer in layers if layer.kind in kinds and layer.settings.get("frozen"))


@dataclass(frozen=True)
class Reach:
    """How far the update of a partly frozen model reaches.

    Args:
        names: Layers that are not trained.
        unknowns: Entries of the input.
        deficits: Directions of every segment's input that are left open at least, in order; of the model's own input
            the measured ones where it was measured.
        certain: Whether the last layer is trained and a chain of exact counts reaches from it to the input.
        solved: Whether that chain leaves nothing of the input open.
        determined: As measured, or ``None``.
    """

    names: tuple[str, ...]
    unknowns: int
    deficits: tuple[int, ...]
    certain: bool
    solved: bool
    determined: Determined | None

    @property
    def always_unique(self) -> bool:
        """Whether every input tried is determined, or counts say so exactly."""
        if self.determined is not None:
            return self.determined.lowest == self.unknowns
        return self.certain and self.solved

    def known(self, open_directions: int | None) -> bool:
        """Whether directions are certainly open, or were measured; a bound that rules out nothing says nothing."""
        return self.determined is not None or bool(open_directions) or self.always_unique

    def unique(self, counted: bool | None, missing: int | None) -> bool | None:
        """Whether a segment's input has one solution, given its own count and what the layers after it leave open."""
        if missing:
            found = self.determined
            return None if counted is None and found is not None and found.lowest < found.highest else False
        return counted if self.always_unique else None

    @property
    def named(self) -> str:
        """The layers as the subject of a sentence."""
        more = f" and {len(self.names) - 4} more" if len(self.names) > 4 else ""
        return f"{', '.join(self.names[:4])}{more} {'is' if len(self.names) == 1 else 'are'}"

    @property
    def told(self) -> str:
        """What the update determines, in a sentence."""
        of, found = f"of {grouped(self.unknowns)} directions of the input", self.determined
        if found is None:
            return f"The update determines at most {grouped(self.unknowns - self.deficits[0])} {of}"
        if found.lowest == found.highest:
            return f"The update determines {grouped(found.highest)} {of}, measured"
        between = f"{grouped(found.lowest)} to {grouped(found.highest)}"
        return f"The update determines {between} {of}, measured at {found.points} random inputs"


def reach(
    parts: Sequence[Segment], chain: Sequence[int | None], batch_size: int, determined: Determined | None
) -> Reach | None:
    """How far the update reaches where layers are not trained; ``None`` where all are.

    Args:
        parts: Segments of the model, in order, with annotated layers.
        chain: Deficits by the recursion from the loss, which takes the last layer's output as known.
        batch_size: Samples behind the update.
        determined: What was measured.
    """
    layers = [layer for part in parts for layer in part.layers]
    names = partly_frozen(layers)
    if not names:
        return None
    flow = UpdateFlow(layers, batch_size)
    deficits = [max(0, part.unknowns - flow.rank(part.layers[0].inputs[0])) for part in parts]
    if determined is not None:
        deficits[0] = parts[0].unknowns - determined.highest
    certain = _counts_exactly(parts, layers)
    return Reach(names, parts[0].unknowns, tuple(deficits), certain, certain and chain[0] == 0, determined)


def _counts_exactly(parts: Sequence[Segment], layers: Sequence[Layer]) -> bool:
    """Whether the recursion can begin at the loss, and counts nothing by a bound or by halves."""
    weighted = [layer for layer in layers if layer.kind in _WEIGHTED]
    begins = bool(weighted) and not weighted[-1].settings.get("frozen", True)
    return begins and all(p.locally_invertible and not p.bound and p.system is not None for p in parts)


def measure(
    function: Subgraph,
    loss: Callable[[Tensor], Tensor],
    layers: Sequence[Layer],
    bound: int,
    generator: Generator,
    deadline: float,
) -> Determined | None:
    """Count the directions that the update determines; ``None`` where that would take too long.

    Args:
        function: From the input to the logits, with the trained tensors.
        loss: Of the logits.
        layers: Of the model, for whether it is made of linear pieces.
        bound: Most directions that there can be.
        generator: Of the random inputs.
        deadline: `time.perf_counter` by which to be done.
    """
    shape = function.trace.shape(function.start)
    size, entries = torch.Size(shape).numel(), sum(t.numel() for t in function.trainable.values())
    tangents = min(size, bound + SPARE)
    expected = 2 * tangents**2 * entries / OPERATIONS_PER_SECOND
    if tangents * entries > LARGEST_MATRIX or time.perf_counter() + expected > deadline:
        return None
    load_forward_mode()
    pieces = _of_linear_pieces(layers)
    counts: list[int] = []
    points = 0
    while points < (POINTS if pieces else 1):
        started = time.perf_counter()
        draw = torch.rand if points % 2 else torch.randn
        x = draw(shape, generator=generator, dtype=torch.float64)
        counts += _ranks(function, loss, x, tangents, generator)
        points += 1
        now = time.perf_counter()
        if now + (now - started) > deadline:
            break
    return Determined(min(counts), max(counts), points) if points >= (FEWEST_POINTS if pieces else 1) else None


def _of_linear_pieces(layers: Sequence[Layer]) -> bool:
    """Whether the rank may differ from input to input: it is the same almost everywhere for analytic functions."""
    return any(
        layer.kind in ("max_pool", "other")
        or (
            layer.kind == "activation" and layer.settings["function"] in {*PIECEWISE_LINEAR, "hardswish", "hardsigmoid"}
        )
        or layer.settings.get("function") == "max"
        for layer in layers
    )


def _ranks(
    function: Subgraph, loss: Callable[[Tensor], Tensor], x: Tensor, tangents: int, generator: Generator
) -> list[int]:
    """Rank of the update's Jacobian at one input, by both tolerances."""

    def gradient(point: Tensor) -> Tensor:
        found = grad(lambda tensors: loss(function(point, tensors)))(function.trainable)
        return torch.cat([g.flatten() for g in found.values()])

    if tangents == x.numel():
        directions = torch.eye(tangents, dtype=x.dtype)
    else:
        directions = torch.randn((tangents, x.numel()), generator=generator, dtype=x.dtype)
    columns = vmap(lambda tangent: jvp(gradient, (x,), (tangent,))[1], chunk_size=64)
    matrix = columns(directions.view(-1, *x.shape))
    return rank_above(matrix, (RELATIVE_TOLERANCE, STRICT_TOLERANCE))
