"""Measures, within a time budget, the segments whose rank shapes do not give, and the whole map from image to update.

Smallest segments first; a segment that is too large, or has an operator without a forward derivative, stays unknown and
the reason is kept in `Measuring.refused`. See `leakaudit.risk.jacobian` for what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from leakaudit.errors import first_line
from leakaudit.risk.frozen import Determined, measure, partly_frozen
from leakaudit.risk.jacobian import UNDECIDED_GAP, Spectrum, Subgraph, gradient_spectrum, segment_rank
from leakaudit.risk.segment import Segment
from leakaudit.risk.structural import StructuralRank
from leakaudit.risk.update_flow import UpdateFlow
from leakaudit.target.kinds import Layer
from leakaudit.target.target import Target
from leakaudit.target.trace import Trace

QUICK_UNKNOWNS = 1500
"""Largest input of a segment that is measured without being asked to; chosen for time."""
THOROUGH_UNKNOWNS = 4000
"""Largest input of a segment, and of a whole model, that is measured column by column when asked to; chosen for time.
"""


@dataclass(frozen=True)
class Measured:
    """A segment's system as its Jacobian shows it, its condition number, and the gap of singular values at its rank."""

    system: StructuralRank
    condition: float
    gap: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the singular values leave a gap at the rank, or it is full."""
        return self.gap is None or self.gap >= UNDECIDED_GAP


def undecided(part: Segment) -> bool:
    """Whether shapes leave the question open: no system, a bound, or full rank only if enough units are active."""
    if part.kind == "embedding" or not _on_its_own(part):
        return False
    if part.system is None or part.local is None or part.bound:
        return True
    return part.system.deficit == 0 < part.local.deficit


def _on_its_own(part: Segment) -> bool:
    """Whether no weight of it is used elsewhere too: only then is its gradient known apart."""
    inside = {layer.index for layer in part.layers}
    return all(inside.issuperset(layer.settings.get("users", ())) for layer in part.layers)


class Measuring:
    """Measures what shapes do not give, within a time budget."""

    def __init__(
        self,
        recorded: Trace,
        outputs: dict[int, fx.Node],
        trainable: frozenset[str],
        thorough: bool,
        budget: float,
        seed: int,
    ) -> None:
        self.trace, self.outputs, self.trainable = recorded, outputs, trainable
        self.thorough, self.budget = thorough, budget
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.refused: dict[str, str] = {}

    def segments(self, parts: Sequence[Segment]) -> dict[str, Measured]:
        """Measured systems by segment name, of the segments that need it."""
        found = {}
        largest = THOROUGH_UNKNOWNS if self.thorough else QUICK_UNKNOWNS
        needed = [p for p in parts if undecided(p)]
        for part in sorted(needed, key=lambda p: p.unknowns):
            expected = 4.0 * (part.unknowns / QUICK_UNKNOWNS) ** 3
            if part.unknowns > largest or (self.thorough and time.perf_counter() + expected > self.budget):
                continue
            if time.perf_counter() > self.budget:
                break
            try:
                rank = self._segment(part)
            except (NotImplementedError, RuntimeError) as error:  # an operator without a forward derivative
                self.refused[part.name] = first_line(error, 120)
                continue
            if rank is not None:
                found[part.name] = rank
        return found

    def _segment(self, part: Segment) -> Measured | None:
        source = part.layers[0].inputs[0]
        start = self.outputs[source] if source >= 0 else self.trace.input
        function = Subgraph(self.trace, start, self.outputs[part.layers[-1].index], self.trainable)
        found = segment_rank(function, self.generator)
        if found is None:
            return None
        overlap = found.gradient + found.output - found.joint
        system = StructuralRank(
            found.unknowns, part.gradient, found.outputs, found.gradient, found.output, overlap, found.unknowns
        )
        return Measured(system, found.condition, found.gap)

    def determined(self, target: Target, layers: Sequence[Layer]) -> Determined | None:
        """What the update of a partly frozen model determines; ``None`` where all is trained, or it takes too long."""
        batch, largest = self.trace.batch_size, THOROUGH_UNKNOWNS if self.thorough else QUICK_UNKNOWNS
        if not partly_frozen(layers) or not target.parameters or batch * prod(target.image_shape) > largest:
            return None
        labels = target.task.draw(batch, self.generator)

        def loss(logits: Tensor) -> Tensor:
            return target.task.loss(logits.reshape(batch, -1), labels)

        function = Subgraph(self.trace, self.trace.input, self.trace.output, self.trainable)
        bound = UpdateFlow(layers, batch).rank(-1)
        try:
            return measure(function, loss, layers, bound, self.generator, self.budget)
        except (NotImplementedError, RuntimeError):  # an operator without a forward derivative: the bound stands
            return None

    def whole(self, target: Target) -> Spectrum:
        """RA_J with a random label per sample."""
        function = Subgraph(self.trace, self.trace.input, self.trace.output, self.trainable)
        batch = self.trace.batch_size
        labels = target.task.draw(batch, self.generator)

        def loss(logits: Tensor) -> Tensor:
            return target.task.loss(logits.reshape(batch, -1), labels)

        left = max(2.0, self.budget - time.perf_counter())
        return gradient_spectrum(function, loss, self.generator, seconds=left, largest=THOROUGH_UNKNOWNS)
