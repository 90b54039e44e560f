"""Claims that a proof contradicts: the update proves to be of other samples than those that it is scored against.

A certified reconstruction regenerates a recorded update and is locally unique, so it is taken for the batch. Where one
of its samples is not the private one it was matched with, the update is of another batch, and what is merely near to a
private sample, by whichever attack, is near by chance: a census holds people who differ in one answer. Exact samples
stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leakaudit.audit.scene import Run
from leakaudit.audit.victim import Outcome
from leakaudit.scoring.base import SampleScore

CONTRADICTED = "a reconstruction that proves itself is of another sample, so this one is near by chance"


def without_contradicted(runs: Sequence[Run]) -> list[Run]:
    """The runs without leaks that a certified reconstruction of the same victim contradicts."""
    others = {o.victim.number for run in runs for o in run.outcomes if _of_others(o)}
    if not others:
        return list(runs)
    return [
        replace(run, outcomes=[_judged(o) if o.victim.number in others else o for o in run.outcomes]) for run in runs
    ]


def _of_others(outcome: Outcome) -> bool:
    """Whether it proves that the update is not of these samples."""
    return outcome.certified and any(outcome.measure.inexact(score) for score in outcome.scores)


def _judged(outcome: Outcome) -> Outcome:
    return replace(outcome, scores=[_kept(outcome, score) for score in outcome.scores])


def _kept(outcome: Outcome, score: SampleScore) -> SampleScore:
    near = score.leaked and outcome.measure.inexact(score)
    return replace(score, leaked=False, reason=CONTRADICTED) if near else score
