"""Rank analysis: how much of its input a model's shared update determines, from the model alone.

Claim. Every segment of the model (`leakaudit.risk.chain`) gets its unknowns, its gradient, weight and virtual
constraints, the paper's count |x| - |G| - |z|, the exact structural rank r̂, and the deficit |x| - r̂; deficits
propagate to the image as RA_prop. Blocks with several paths get an upper bound on their rank (`leakaudit.risk.flow`).
Where shapes do not give the rank, the segment's Jacobian is measured if it is small; otherwise the segment is named
and nothing is claimed about it. With ``jacobian=True`` the whole map from image
to update is measured too (RA_J).

Levels
    *exact leak*: a biased fully connected layer reads the image off, or every layer is solvable in closed form;
    *identifiable*: the update determines the image locally (RA_prop = 0 or RA_J = 0), some layer alone does not;
    *partially identifiable*: it determines rank of n directions;
    *counts unavailable*: some segment could not be treated.

Score, 0 to 1, higher is more at risk: the mean of two fractions, ``1 - RA/n`` (directions of the image that the
update determines; RA is RA_J where measured, else RA_prop) and ``1 - Σ deficit_i / Σ |x_i|`` over the weighted layers
(how far a layer-by-layer attack gets). Risk is high for the first two levels and from a determined share RA/n of 90
%, medium from 30 %, low below. There is no "safe": a deficit of d of n still gives away n - d directions, and priors
fill in the rest.

Fails: r̂ is an upper bound (see `structural`); δ and z are taken as known, which non-convexity denies to weak
optimisers. References: Zhu & Blaschko, "R-GAP", ICLR 2021; the structural rank, RA_prop, RA_seg and the score are
ours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from leakaudit.risk.chain import Segment, layer_system, propagate, segments
from leakaudit.risk.jacobian import UNDECIDED_GAP, VISIBLE, Spectrum
from leakaudit.risk.measure import Measured, Measuring
from leakaudit.target.inventory import layers_and_outputs
from leakaudit.target.kinds import Layer, parameter_users
from leakaudit.target.target import Target
from leakaudit.target.trace import trace, usable_batch_size

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
        )


def rank_analysis(
    target: Target, *, batch_size: int = 1, jacobian: bool = False, seconds: float | None = None, seed: int = 0
) -> RankReport:
    """Analyse a model. Needs no data.

    Args:
        target: In the mode (train or eval) that the client trains in.
        batch_size: Samples behind one update.
        jacobian: Also measure segments up to 4,000 unknowns and the map from image to update.
        seconds: Time for measurements: 3 by default, 60 with ``jacobian``. Counts alone take a fraction of a second.
        seed: Of the random inputs at which ranks are measured.

    Raises:
        TraceError: The model's operators cannot be recorded.
    """
    if target.domain.uncounted:
        return _uncounted(target)
    started = time.perf_counter()
    budget = started + (seconds if seconds is not None else 60.0 if jacobian else 3.0)
    accepted = target.batch_sizes is None or batch_size in target.batch_sizes
    recorded = trace(target, batch_size=batch_size if accepted else usable_batch_size(target), seed=seed)
    layers, outputs = layers_and_outputs(recorded)
    layers = annotate(layers, target)
    parts = segments(layers, batch_size)
    measuring = Measuring(recorded, outputs, frozenset(target.parameters), jacobian, budget, seed)
    measured = measuring.segments(parts) if recorded.batch_size == batch_size else {}
    spectrum = measuring.whole(target, batch_size) if jacobian and target.parameters else None
    parts = tuple(replace(p, note=f"{p.note}; {measuring.refused[p.name]}") if p.name in measuring.refused else p
                  for p in parts)  # fmt: skip
    report = judge(parts, batch_size, measured, spectrum)
    return replace(report, seconds=time.perf_counter() - started)


def _uncounted(target: Target) -> RankReport:
    """Why there are no counts for such samples, and what the architecture gives away regardless."""
    return RankReport(
        risk="unknown",
        score=None,
        score_reason=target.domain.uncounted,
        level="counts unavailable",
        unknowns=0,
        propagated_deficit=None,
        layers=(),
        notes=target.domain.exposed(target.parameters),
    )


def annotate(layers: tuple[Layer, ...], target: Target) -> tuple[Layer, ...]:
    """Note on each layer whether its weight is frozen (not part of the update) or shared with another layer."""
    trainable = target.parameters
    users = parameter_users(layers)
    noted = []
    for layer in layers:
        extra: dict[str, Any] = {}
        if layer.weight is not None:
            extra = {"frozen": layer.weight not in trainable, "shared": len(users[layer.weight]) > 1}
            extra["users"] = users[layer.weight]
            extra["biased"] = layer.bias in trainable
        noted.append(replace(layer, settings=layer.settings | extra))
    return tuple(noted)


def judge(
    parts: tuple[Segment, ...],
    batch_size: int = 1,
    measured: dict[str, Measured] | None = None,
    spectrum: Spectrum | None = None,
) -> RankReport:
    """Rows, level, score and risk from described segments; needs no model, so `what_if` uses it too."""
    measured = measured or {}
    known = tuple(_with(part, measured.get(part.name)) for part in parts)
    deficits = propagate(known)
    rows: list[LayerRank] = []
    virtual = 0
    for part, missing in zip(known, deficits, strict=True):
        rows.append(_row(part, missing, virtual, measured.get(part.name)))
        if part.kind == "block":
            rows.extend(_inner(part, batch_size))
        virtual += max(0, part.weight - part.unknowns) if part.gradient else 0
    unknowns = parts[0].unknowns if parts else 0
    reading = deficits[0] if deficits else None
    open_directions = _open_directions(reading, spectrum)
    exact = _exact_leak(known, batch_size)
    level = _level(exact, open_directions)
    score = _score(rows, unknowns, open_directions)
    return RankReport(
        risk=_risk(level, unknowns, open_directions),
        score=score,
        score_reason="" if score is not None else _unavailable(known),
        level=level,
        unknowns=unknowns,
        propagated_deficit=reading,
        layers=tuple(rows),
        spectrum=spectrum,
        notes=tuple(_notes(known, exact, unknowns, reading, spectrum, batch_size)),
    )


def _with(part: Segment, measured: Measured | None) -> Segment:
    if measured is None:
        return part
    return replace(part, system=measured.system, local=measured.system, note="", bound=False)


def _row(part: Segment, missing: int | None, virtual: int, measured: Measured | None) -> LayerRank:
    system, local = part.system, part.local
    note = "; ".join(text for text in (part.note, *part.notes) if text)
    unique: bool | None = None
    if system is not None and local is not None:
        unique = None if part.bound and local.deficit == 0 else local.deficit == 0
        if system.deficit == 0 and local.deficit > 0:
            unique = None
            note = "; ".join(t for t in (note, "unique only if more than half of the units are active") if t)
        elif not part.locally_invertible and measured is None and system.gradient_rank < system.unknowns:
            note = "; ".join(t for t in (note, "activation not invertible: counted with half of the outputs") if t)
    if measured is not None and not measured.decided:
        unique = None
        note = "; ".join(
            t for t in (note, f"rank undecided: singular values leave no gap ({measured.gap:.0f}) at it") if t
        )
    return LayerRank(
        name=part.name,
        kind=part.kind,
        unknowns=part.unknowns,
        gradient=part.gradient,
        weight=part.weight,
        virtual=virtual,
        index=part.unknowns - part.gradient - part.weight,
        rank=system.rank if system else None,
        deficit=system.deficit if system else None,
        propagated=missing,
        unique=unique,
        measured=measured is not None,
        condition=measured.condition if measured else None,
        note=("; ".join(t for t in (note, "measured") if t)) if measured else note,
    )


def _inner(part: Segment, batch_size: int) -> list[LayerRank]:
    """The weighted layers of a block, counted as if their own δ and z were known; no claim of uniqueness."""
    rows = []
    for layer in part.layers:
        if layer.kind not in ("convolution", "linear") or layer.settings.get("derived_weight"):
            continue
        system = layer_system(layer, (), batch_size)
        rows.append(
            LayerRank(
                name=layer.name,
                kind=layer.kind,
                unknowns=system.unknowns,
                gradient=system.gradient,
                weight=system.weight,
                virtual=None,
                index=system.index,
                rank=system.rank,
                deficit=system.deficit,
                note="inside the block above: counted as if its own output gradient were known",
            )
        )
    return rows


def _open_directions(reading: int | None, spectrum: Spectrum | None) -> int | None:
    if spectrum is None:
        return reading
    if spectrum.measured or reading is None:
        return spectrum.deficit
    return reading


def _exact_leak(parts: tuple[Segment, ...], batch_size: int) -> str:
    """Why the image can be computed exactly, or ""."""
    if batch_size > 1 or not parts:
        return ""
    first = parts[0].main
    if first is not None and _reads_input(parts[0]):
        return f"{first.name}: x = (∂ℓ/∂W)_j / (∂ℓ/∂b)_j reads the image off one row of its gradient"
    solvable = all(
        p.system is not None and p.system.deficit == 0 and p.invertible and p.kind in ("convolution", "linear")
        for p in parts
    )
    return "every layer is solvable in closed form, from the loss to the image (R-GAP)" if solvable else ""


def _reads_input(part: Segment) -> bool:
    layer = part.main
    if layer is None or layer.kind != "linear" or part.kind == "block":
        return False
    trained = layer.settings.get("biased") and not layer.settings.get("frozen") and not layer.settings.get("shared")
    return bool(trained) and layer.settings["tokens"] == 1


def _level(exact: str, open_directions: int | None) -> Level:
    if exact:
        return "exact leak"
    if open_directions is None:
        return "counts unavailable"
    return "identifiable" if open_directions == 0 else "partially identifiable"


def _score(rows: list[LayerRank], unknowns: int, open_directions: int | None) -> float | None:
    counted = [row for row in rows if row.deficit is not None and row.unknowns is not None and row.gradient]
    total = sum(row.unknowns or 0 for row in counted)
    if open_directions is None or not unknowns or not total:
        return None
    layerwise = 1.0 - sum(row.deficit or 0 for row in counted) / total
    return round(0.5 * (1.0 - open_directions / unknowns) + 0.5 * layerwise, 4)


def _risk(level: Level, unknowns: int, open_directions: int | None) -> Risk:
    if level in ("exact leak", "identifiable"):
        return "high"
    if open_directions is None:
        return "unknown"
    share = 1.0 - open_directions / unknowns
    return "high" if share >= 0.9 else "medium" if share >= 0.3 else "low"


def _unavailable(parts: tuple[Segment, ...]) -> str:
    missing = [part for part in parts if part.system is None]
    if not missing:
        return "the model has no layer with trainable weights between input and output"
    named = "; ".join(f"{part.name}: {part.note}" for part in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{named}{more}"


def _notes(
    parts: tuple[Segment, ...],
    exact: str,
    unknowns: int,
    reading: int | None,
    spectrum: Spectrum | None,
    batch_size: int,
) -> list[str]:
    notes = [exact] if exact else []
    notes += [
        f"{part.name}: biased fully connected layer, gives its own input exactly whatever follows it"
        for part in parts[1:]
        if batch_size == 1 and _reads_input(part)
    ][:1]
    if reading is not None:
        most = "at most " if any(part.bound for part in parts) else ""
        notes.append(f"RA_prop: the update determines {most}{unknowns - reading} of {unknowns} directions of the image")
    deficient = [part for part in parts if part.system is not None and part.system.deficit > 0 and part.gradient]
    if deficient:
        worst = max(deficient, key=lambda part: part.system.deficit if part.system else 0)
        assert worst.system is not None
        notes.append(
            f"closed-form recovery stops at {deficient[-1].name}; largest deficit at {worst.name}: "
            f"{worst.system.deficit} of {worst.unknowns}"
        )
    if spectrum is not None:
        how = "measured" if spectrum.measured else f"estimated, singular values above {VISIBLE:g} of the largest"
        extra = f", condition {spectrum.condition:.1e}" if spectrum.condition else ""
        notes.append(f"RA_J ({how}): rank {spectrum.rank} of {spectrum.unknowns}{extra}")
        if spectrum.gap is not None and spectrum.gap < UNDECIDED_GAP:
            notes.append(f"RA_J undecided: singular values leave no gap ({spectrum.gap:.0f}) at the rank")
    if batch_size > 1:
        notes.append(
            f"counted for {batch_size} samples; samples can be exchanged, and no layer is exact in closed form"
        )
    return notes
