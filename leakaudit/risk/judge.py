"""From described segments to rows, level, score and risk; needs no model. `leakaudit.risk.rank` states the rules."""

from __future__ import annotations

from dataclasses import replace

from leakaudit.document.counting import grouped
from leakaudit.risk.chain import propagate
from leakaudit.risk.frozen import Determined, Reach, reach
from leakaudit.risk.jacobian import UNDECIDED_GAP, VISIBLE, Spectrum
from leakaudit.risk.measure import Measured
from leakaudit.risk.ranked import LayerRank, Level, RankReport, Risk
from leakaudit.risk.segment import Segment
from leakaudit.risk.systems import layer_system


def judge(
    parts: tuple[Segment, ...],
    batch_size: int = 1,
    measured: dict[str, Measured] | None = None,
    spectrum: Spectrum | None = None,
    determined: Determined | None = None,
) -> RankReport:
    """Rows, level, score and risk from described segments; needs no model, so `what_if` uses it too."""
    measured = measured or {}
    known = tuple(_with(part, measured.get(part.name)) for part in parts)
    chain = propagate(known)
    reached = reach(known, chain, batch_size, determined)
    deficits = chain if reached is None else reached.deficits
    rows: list[LayerRank] = []
    virtual = 0
    for part, missing in zip(known, deficits, strict=True):
        row = _row(part, missing, virtual, measured.get(part.name))
        rows.append(row if reached is None else replace(row, unique=reached.unique(row.unique, missing)))
        if part.kind == "block":
            rows.extend(_inner(part, batch_size))
        virtual += max(0, part.weight - part.unknowns) if part.gradient else 0
    unknowns = parts[0].unknowns if parts else 0
    reading = deficits[0] if deficits else None
    open_directions = _open_directions(reading, spectrum)
    exact = _exact_leak(known, batch_size, chain if reached is None or reached.certain else None)
    if reached is not None and not exact and not reached.known(open_directions):
        open_directions = None
    level = _level(exact, open_directions, reached)
    score = _score(rows, unknowns, open_directions, partly=reached is not None)
    return RankReport(
        risk=_risk(level, unknowns, open_directions),
        score=score,
        score_reason="" if score is not None else _unavailable(known, reached),
        level=level,
        unknowns=unknowns,
        propagated_deficit=reading,
        layers=tuple(rows),
        spectrum=spectrum,
        notes=tuple(_notes(known, exact, unknowns, reading, spectrum, batch_size, reached)),
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
        bound=part.bound and system is not None,
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


def _exact_leak(parts: tuple[Segment, ...], batch_size: int, chain: tuple[int | None, ...] | None) -> str:
    """Why the input can be computed exactly, or ""; `chain` is ``None`` where no recursion starts at the loss."""
    if batch_size > 1 or not parts:
        return ""
    first = parts[0].main
    if first is not None and _reads_input(parts[0]):
        return f"{first.name}: x = (∂ℓ/∂W)_j / (∂ℓ/∂b)_j reads the input off one row of its gradient"
    solvable = chain is not None and all(
        p.system is not None and p.system.deficit == 0 and p.invertible and p.kind in ("convolution", "linear")
        for p in parts
    )
    return "every layer is solvable in closed form, from the loss to the input (R-GAP)" if solvable else ""


def _reads_input(part: Segment) -> bool:
    layer = part.main
    if layer is None or layer.kind != "linear" or part.kind == "block":
        return False
    trained = layer.settings.get("biased") and not layer.settings.get("frozen") and not layer.settings.get("shared")
    return bool(trained) and layer.settings["tokens"] == 1


def _level(exact: str, open_directions: int | None, reached: Reach | None) -> Level:
    if exact:
        return "exact leak"
    if open_directions is None:
        return "counts unavailable"
    if reached is not None and not reached.always_unique:
        return "partially identifiable"
    return "identifiable" if open_directions == 0 else "partially identifiable"


def _score(rows: list[LayerRank], unknowns: int, open_directions: int | None, *, partly: bool) -> float | None:
    """The mean of two fractions; of a partly frozen model, every layer with what those after it leave open."""
    if partly:
        counted = [(row.unknowns or 0, row.propagated) for row in rows if row.propagated is not None]
    else:
        counted = [(row.unknowns or 0, row.deficit) for row in rows if row.deficit is not None and row.gradient]
    total = sum(size for size, _ in counted)
    if open_directions is None or not unknowns or not total:
        return None
    layerwise = 1.0 - sum(missing for _, missing in counted) / total
    return round(0.5 * (1.0 - open_directions / unknowns) + 0.5 * layerwise, 4)


def _risk(level: Level, unknowns: int, open_directions: int | None) -> Risk:
    if level in ("exact leak", "identifiable"):
        return "high"
    if open_directions is None:
        return "unknown"
    share = 1.0 - open_directions / unknowns
    return "high" if share >= 0.9 else "medium" if share >= 0.3 else "low"


def _unavailable(parts: tuple[Segment, ...], reached: Reach | None) -> str:
    if reached is not None:
        return (
            f"{reached.named} not trained, and shapes rule out nothing: what the update determines was not measured "
            "(--jacobian measures models of few inputs)"
        )
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
    reached: Reach | None,
) -> list[str]:
    notes = [exact] if exact else []
    notes += [
        f"layer {part.name}: biased fully connected layer, gives its own input exactly whatever follows it"
        for part in parts[1:]
        if batch_size == 1 and _reads_input(part)
    ][:1]
    if reached is not None:
        notes.append(f"{reached.named} not trained: outputs are known only as far as what follows determines them")
        notes.append(reached.told)
    elif reading is not None:
        most = "at most " if any(part.bound for part in parts) else ""
        notes.append(
            f"The update determines {most}{grouped(unknowns - reading)} of {grouped(unknowns)} directions of the input"
        )
    deficient = [part for part in parts if part.system is not None and part.system.deficit > 0 and part.gradient]
    if deficient:
        worst = max(deficient, key=lambda part: part.system.deficit if part.system else 0)
        assert worst.system is not None
        notes.append(
            f"closed-form recovery stops at layer {deficient[-1].name}; largest deficit at layer {worst.name}: "
            f"{grouped(worst.system.deficit)} of {grouped(worst.unknowns)}"
        )
    if spectrum is not None:
        how = "measured" if spectrum.measured else f"estimated, singular values above {VISIBLE:g} of the largest"
        extra = f", condition {spectrum.condition:.1e}" if spectrum.condition else ""
        notes.append(f"RA_J ({how}): rank {spectrum.rank} of {spectrum.unknowns}{extra}")
        if spectrum.gap is not None and spectrum.gap < UNDECIDED_GAP:
            notes.append(f"RA_J undecided: singular values leave no gap ({spectrum.gap:.0f}) at the rank")
    if batch_size > 1:
        notes.append(
            f"counted for {batch_size} samples, which can be exchanged; what sparsity or small rank gives away beyond "
            "these equations is for the attacks to show"
        )
    return notes
