"""What rank analysis reports, per segment and of the whole model; `leakaudit.risk.rank` says what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from leakaudit.risk.dependence import Dependence
from leakaudit.risk.jacobian import Spectrum

if TYPE_CHECKING:
    from leakaudit.document.schema import RankSection

Level = Literal["exact leak", "identifiable", "partially identifiable", "counts unavailable"]
Risk = Literal["high", "medium", "low", "unknown"]


@dataclass(frozen=True)
class LayerRank:
    """Rank analysis of one segment, or of one layer inside a block.

    Args:
        name: Of its weighted layer.
        kind: ``convolution``, ``linear``, ``convolution+max_pool``, ``block``, …
        unknowns: |x|.
        gradient: Gradient constraints: number of weights.
        weight: Weight constraints: number of outputs, after pooling.
        virtual: Σ max(|z_n| - |x_n|, 0) over the segments before it.
        index: The paper's count, unknowns - gradient - weight.
        rank: r̂, or the measured rank.
        deficit: unknowns - rank.
        propagated: Deficit given what later layers leave open.
        unique: Whether its input has one solution once later layers are solved; ``None`` where that is not known.
        bound: Whether ``rank`` is an upper bound only: a deficit is certain, its absence is not.
        measured: Whether ``rank`` comes from a Jacobian.
        condition: Condition number of the measured system.
        note: Restrictions and reasons.
    """

    name: str
    kind: str
    unknowns: int | None
    gradient: int | None
    weight: int | None
    virtual: int | None
    index: int | None
    rank: int | None = None
    deficit: int | None = None
    propagated: int | None = None
    unique: bool | None = None
    bound: bool = False
    measured: bool = False
    condition: float | None = None
    note: str = ""


@dataclass(frozen=True)
class RankReport:
    """Risk inherent in an architecture, see the module's docstring for levels and score.

    Args:
        risk: In one word.
        score: 0 to 1, higher is more at risk, or ``None``.
        score_reason: Why ``score`` is ``None``.
        level: See `Level`.
        unknowns: n, entries of the image (times the batch size).
        propagated_deficit: RA_prop, or ``None``.
        layers: One entry per segment, from input to loss; layers of a block follow it.
        spectrum: The whole map from image to update, where asked for.
        notes: One sentence each.
        seconds: Time it took.
        dependence: How the update depends on the sample; ``None`` where nothing was to be measured.
    """

    risk: Risk
    score: float | None
    score_reason: str
    level: Level
    unknowns: int
    propagated_deficit: int | None
    layers: tuple[LayerRank, ...]
    spectrum: Spectrum | None = None
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0
    dependence: Dependence | None = None

    def to_document(self) -> RankSection:
        """As the section of the report."""
        from leakaudit.document.schema import ConstraintCounts, RankLayer, RankSection

        rows = [
            RankLayer(
                name=row.name,
                kind=row.kind,
                unknowns=row.unknowns,
                constraints=ConstraintCounts(gradient=row.gradient, weight=row.weight, virtual=row.virtual),
                index=row.index,
                rank=row.rank,
                deficit=row.deficit,
                unique=row.unique,
                bound=row.bound,
                note=row.note,
            )
            for row in self.layers
        ]
        return RankSection(
            risk=self.risk,
            score=self.score,
            score_reason=self.score_reason,
            level=self.level,
            propagated_deficit=self.propagated_deficit,
            layers=rows,
            notes=list(self.notes),
            update_change=self.dependence.change if self.dependence else None,
            update_flat=self.dependence.flat if self.dependence else False,
            update_told=self.dependence.told if self.dependence else "",
        )
