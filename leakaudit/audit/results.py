"""What an attack made of a victim, as the document and the progress display have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leakaudit.audit.recorded import unscored_samples
from leakaudit.document.schema import (
    HistoryPoint,
    LabelResult,
    SampleResult,
    SnapshotEntry,
    VictimResult,
)
from leakaudit.protocols.base import Protocol
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import finite
from leakaudit.scoring.pictures import class_map
from leakaudit.tasks.base import Tally

if TYPE_CHECKING:
    from leakaudit.attacks.certificate import Certificate
    from leakaudit.audit.victim import Outcome
    from leakaudit.scoring.base import SampleScore
    from leakaudit.tasks.base import LabelGuess, Task


def without_pictures(result: VictimResult) -> VictimResult:
    """A result's numbers alone."""
    samples = [s.model_copy(update=dict.fromkeys(PICTURES)) for s in result.samples]
    return result.model_copy(update={"snapshots": [], "history": [], "samples": samples})


def victim_result(outcome: Outcome) -> VictimResult:
    """One attack on one victim."""
    victim, reconstruction, scores = outcome.victim, outcome.reconstruction, outcome.scores
    right = _labels_right(outcome) if victim.batch.known else []
    residual = finite(reconstruction.residual)
    certified, reason = _certified(outcome.certificate, reconstruction, outcome.victim.observation.protocol)
    order = [s.reconstruction for s in sorted(scores, key=lambda s: s.position)]
    return VictimResult(
        victim=victim.number,
        seed=outcome.seed,
        residual=residual,
        residual_reason=""
        if residual is not None
        else _no_residual(reconstruction, outcome.victim.observation.protocol),
        residuals={n: finite(r) for n, r in outcome.certificate.residuals.items()} if outcome.certificate else {},
        match=finite(reconstruction.match),
        certified=certified,
        certified_reason=reason,
        seconds=reconstruction.seconds,
        iterations=reconstruction.iterations,
        stopped=reconstruction.stopped,
        cuts=list(reconstruction.cuts),
        labels=label_result(outcome.task, victim.batch.labels, reconstruction.labels, victim.guess),
        samples=[_sample(outcome, score, right[score.position]) for score in scores] or unscored_samples(outcome),
        history=[
            HistoryPoint(iteration=p.iteration, objective=finite(p.objective), match=finite(p.match))
            for p in reconstruction.history
        ],
        snapshots=[
            shot
            for s in reconstruction.snapshots
            if (shot := _snapshot(outcome, s.fraction, s.inputs, order)) is not None
        ],
        notes=[*(cut.told for cut in reconstruction.cuts if not cut.stopped), *reconstruction.notes],
    )


PICTURES = ("original_png", "reconstruction_png", "label_png", "inferred_label_png")
"""Fields of a sample's result that are pictures."""


def _no_residual(reconstruction: Reconstruction, protocol: Protocol) -> str:
    return reconstruction.incomplete or protocol.unrepeatable or "the update has norm 0"


def _certified(
    certificate: Certificate | None, reconstruction: Reconstruction, protocol: Protocol
) -> tuple[bool | None, str]:
    """Whether the reconstruction proves itself: residual at float level and locally unique."""
    if certificate is None and protocol.unrepeatable and not reconstruction.incomplete:
        return None, f"the update cannot be regenerated: {protocol.unrepeatable}"
    if certificate is None and reconstruction.incomplete:
        return None, f"the update cannot be regenerated: {reconstruction.incomplete}, or dropout was on"
    if certificate is None:
        return None, "the update cannot be regenerated: the client's dropout masks are unknown"
    if not certificate.exact:
        return False, f"residual {certificate.residual:.1e}, float level is {certificate.tolerance:.0e}"
    if certificate.unique is None:
        return None, f"residual at float level; uniqueness undecided: {certificate.note or 'not computed'}"
    if not certificate.unique and certificate.rank is None:
        return False, f"residual at float level, but not unique: {certificate.note}"
    if not certificate.unique:
        return False, f"residual at float level, but not unique: rank {certificate.rank} of {certificate.unknowns}"
    return True, "residual at float level, and locally unique"


def label_result(task: Task, true: Tensor, inferred: Tensor, source: LabelGuess) -> LabelResult:
    """Labels as multisets; `correct` is how many are right, as the task counts; `source` says how they were read."""
    known, read = task.hard(true).cpu(), task.hard(inferred).cpu()
    assumed = _assumed(read, source)
    soft = None if source.soft is None else source.soft.flatten().tolist()
    present = len(true) > 0
    tally = task.tally(known, read) if present else Tally(0, 0)
    return LabelResult(
        true=task.classes_in(known) if present else [],
        inferred=task.classes_in(read),
        correct=0 if assumed else tally.right,
        assumed=assumed,
        known=present,
        method=source.method,
        total=tally.total,
        chance=tally.chance,
        rows=task.rows(known) if present else None,
        inferred_rows=task.rows(read),
        inferred_total=len(read) if task.label_shape else None,
        soft=soft,
        true_soft=true.tolist() if task.softened(true, known) else None,
    )


def _assumed(inferred: Tensor, source: LabelGuess) -> bool:
    """Whether an attack was given labels that nothing tells, and found no others itself."""
    return source.assumed and sorted(inferred.tolist()) == sorted(source.labels.tolist())


def _labels_right(outcome: Outcome) -> Sequence[bool | None]:
    """Of every sample of the batch, whether its label is among those inferred; unknown where they were assumed."""
    inferred = outcome.task.hard(outcome.reconstruction.labels)
    if _assumed(inferred, outcome.victim.guess):
        return [None] * len(outcome.victim.batch)
    return outcome.task.match_labels(outcome.task.hard(outcome.victim.batch.labels), inferred.cpu())


def _label_entry(outcome: Outcome, score: SampleScore) -> dict[str, Any]:
    """The label of a sample and that of its reconstruction: a class, or a row of numbers."""
    true, inferred = outcome.task.hard(outcome.victim.batch.labels), outcome.task.hard(outcome.reconstruction.labels)
    known, read = true[score.position], inferred[score.reconstruction]
    if outcome.task.label_shape:
        rows = [outcome.task.rows(label[None]) or [[]] for label in (known, read)]
        maps = [outcome.task.map_of(label) for label in (known, read)]
        drawn = [None if each is None else class_map(each) for each in maps]
        return {
            "label": None,
            "label_row": rows[0][0],
            "inferred_row": rows[1][0],
            "label_png": drawn[0],
            "inferred_label_png": drawn[1],
        }
    return {"label": int(known), "inferred_label": int(read)}


def _snapshot(outcome: Outcome, fraction: float, inputs: Tensor, order: Sequence[int]) -> SnapshotEntry | None:
    """The samples part of the way; ``None`` where this domain has no pictures."""
    values = outcome.victim.observation.domain.decode(inputs.cpu())
    pictures = [outcome.measure.picture(values[i]) for i in order]
    shown = [picture for picture in pictures if picture is not None]
    return SnapshotEntry(fraction=fraction, images_png=shown) if len(shown) == len(order) else None


def _sample(outcome: Outcome, score: SampleScore, label_right: bool | None) -> SampleResult:
    batch, found, measure = outcome.victim.batch, score.identification, outcome.measure
    common = {
        "index": batch.indices[score.position],
        **_label_entry(outcome, score),
        "label_right": label_right,
        "reidentified": found.identified,
        "rank_among": found.distractors + 1,
        "leaked": score.leaked,
        "leaked_reason": score.reason,
        "metrics": score.metrics,
        "metric_reasons": score.reasons,
        "metric_floors": score.floor_metrics,
        "closeness": finite(score.closeness),
        "recognisable": measure.recognisable(score),
        "told": measure.told(score),
        "claim": measure.claim(score),
        "distractors_wanted": measure.wanted,
    }
    return SampleResult.model_validate({**common, **measure.entry(batch, score, outcome.recovered)})


def summarize(outcome: Outcome) -> str:
    """One line for the progress display."""
    leaked = sum(s.leaked for s in outcome.scores)
    done = outcome.reconstruction
    if not outcome.victim.batch.known:
        proved = f"{sum(outcome.proved)} of {len(outcome.proved)} proved"
        return f"victim {outcome.victim.number}: {proved}, {done.seconds:.1f} s"
    near = outcome.measure.summary(outcome.scores)
    tail = f"{done.seconds:.1f} s{', ' if done.stopped else ''}{done.stopped}"
    return f"victim {outcome.victim.number}: {near}, {leaked} of {len(outcome.scores)} leaked, {tail}"
