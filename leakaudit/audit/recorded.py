"""Sections of the report on what was recorded, and on samples that nobody has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from leakaudit.client.rounds.statistics import sent_statistics
from leakaudit.document.schema import CarriedEntry, LeftOutEntry, PartResult, RoundEntry, SampleResult
from leakaudit.target.target import Target

if TYPE_CHECKING:
    from leakaudit.audit.round import Round
    from leakaudit.audit.rounds import Rounds
    from leakaudit.audit.victim import Outcome

NOBODY = "nobody has the private samples, so there is nothing to compare it with"
PROVED = "proved by its own check"


def recorded_facts(recorded: Rounds, target: Target | None) -> dict[str, Any]:
    """What a report's section on the protocol says of recorded rounds, by its keys."""
    first = recorded.audited[0].update
    several = len(recorded.audited) > 1 or bool(recorded.audited[0].label)
    updates = [own.update for own in recorded.audited]
    hashes = [update.sha256 or "" for update in updates]
    return {
        "weight_decay": first.decay.rate if first.decay and first.decay.taken is None else None,
        "weight_decay_note": first.decay.told() if first.decay else "",
        "update_notes": list(dict.fromkeys(note for update in updates for note in update.notes)),
        "update_path": os.path.commonpath([update.path for update in updates]) if several else first.path,
        "update_sha256": combined(hashes) if several else first.sha256,
        "rounds": [_round_entry(number, own) for number, own in enumerate(recorded.audited)] if several else [],
        "left_out": [LeftOutEntry(label=one.label, reason=one.reason) for one in recorded.left_out],
        "carried": [
            CarriedEntry(earlier=c.earlier, later=c.later, tensor=c.tensor, rows=c.rows, factor=c.factor)
            for c in recorded.carried
        ],
        "statistics_sent": [] if target is None else list(sent_statistics(target, first.buffers)),
    }


def combined(hashes: list[str]) -> str:
    """One hash of several files, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _round_entry(number: int, own: Round) -> RoundEntry:
    return RoundEntry(
        victim=number,
        label=own.label,
        client=str(own.told.get("client", "")),
        round=str(own.told.get("round", "")),
        kind=own.update.kind,
        sha256=own.update.sha256,
        samples=len(own.batch.indices),
        known=own.batch.known,
        own_weights=own.target is not None,
        notes=list(own.update.notes),
    )


def unscored_samples(outcome: Outcome) -> list[SampleResult]:
    """The samples of a reconstruction that nothing can be compared with: what proves itself has leaked."""
    if outcome.victim.batch.known:
        return []
    return list(_unscored(outcome))


def _unscored(outcome: Outcome) -> Iterator[SampleResult]:
    batch, measure, made = outcome.victim.batch, outcome.measure, outcome.reconstruction
    read = outcome.task.hard(made.labels)
    labels = outcome.task.rows(read) or read.tolist()
    inferred = "inferred_row" if outcome.task.label_shape else "inferred_label"
    names = [spec.name for spec in measure.shown]
    reasons = {f"{name}_reason": NOBODY for name in names if f"{name}_reason" in SampleResult.model_fields}
    for row, proved in enumerate(outcome.proved):
        part = _part(outcome, row)
        counts = proved and (part is None or made.read is None or measure.enough(made.read[row]))
        yield SampleResult.model_validate(
            {
                **reasons,
                "index": batch.indices[0] + row,
                "label": None,
                inferred: labels[row] if row < len(labels) else None,
                "leaked": counts,
                "leaked_reason": "" if counts else NOBODY,
                "scored": False,
                "proved": counts,
                "part": part if counts else None,
                "metrics": dict.fromkeys(names),
                "metric_reasons": dict.fromkeys(names, NOBODY),
                "reidentified_reason": NOBODY,
                "recognisable": counts and part is None,
                "told": PROVED if counts else "",
                "claim": measure.unscored_claim(outcome.recovered) if counts else "",
                **measure.unscored_entry(outcome.recovered, row),
            }
        )


def _part(outcome: Outcome, row: int) -> PartResult | None:
    """How much of a sample was read, where that is not all; exactly, as it is confirmed."""
    read = outcome.reconstruction.read
    if read is None or bool(read[row].all()):
        return None
    return PartResult(entries=int(read[row].sum()), of=read[row].numel(), psnr=None)
