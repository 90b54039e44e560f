"""A gain over another attack is told for the victims on which both had all their steps, and for no others."""

from __future__ import annotations

from typing import Any

import pytest

from leakaudit.audit.assemble import gain_over
from leakaudit.document.schema import AttackEntry, Comparison, VictimResult
from leakaudit.document.status import Cause, Cut, Lost
from leakaudit.report.views.comparison import comparison_sentence
from tests.findings.build import entry, sample, victim

PLANNED = Cut(Lost.PLAN, Cause.BUDGET, 2, 9)


def stop(done: int) -> Cut:
    return Cut(Lost.ITERATIONS, Cause.BUDGET, done, 9)


def result(number: int, psnr: float, **more: Any) -> VictimResult:
    return victim(sample(False, psnr), victim=number, **more)


def attack(ours: list[VictimResult], theirs: list[VictimResult], reason: str = "") -> AttackEntry:
    beside = Comparison(name="ig", title="IG", results=theirs, reason=reason, gain=gain_over(theirs, ours))
    return entry(name="gi-pip", title="GI-PIP", results=ours, beside=beside)


def test_tells_the_gain_where_both_ran_to_the_end() -> None:
    told = comparison_sentence(attack([result(0, 20.0), result(1, 24.0)], [result(0, 19.0), result(1, 21.0)]))
    assert "median PSNR 20.0 dB against 22.0 dB here, over the same 2 samples" in told
    assert told.endswith("what this attack adds is +2.0 dB in the median.")
    assert comparison_sentence(entry()) == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ([result(0, 20.0, cuts=[stop(3)])], [result(0, 8.0)], "gi-pip, stopped after 3 of"),
        ([result(0, 20.0, cuts=[PLANNED])], [result(0, 8.0)], "gi-pip, time budget"),
        ([result(0, 20.0)], [result(0, 8.0, cuts=[stop(1)])], "ig, stopped after 1 of 9"),
        ([result(0, 20.0)], [result(0, 8.0, cuts=[PLANNED])], "ig, time budget: 2"),
        ([result(0, 20.0)], [], "ig, time budget spent: 0 of 1"),
    ],
)
def test_claims_nothing_where_either_was_cut(ours: list[VictimResult], theirs: list[VictimResult], why: str) -> None:
    told = comparison_sentence(attack(ours, theirs, "time budget spent: 0 of 1 victims attacked"))
    assert f"not compared, since not both had all their steps (victim 0: {why}" in told
    assert "dB" not in told


def test_leaves_out_and_names_the_victims_that_were_cut() -> None:
    cut = result(1, 5.0, cuts=[stop(1)])
    told = comparison_sentence(attack([result(0, 20.0), result(1, 24.0)], [result(0, 19.5), cut]))
    assert "over the same 1 sample; what this attack adds is +0.5 dB in the median." in told
    assert "Left out, since not both had all their steps: victim 1: ig, stopped after 1 of 9 iterations." in told


def test_says_when_no_sample_has_a_psnr_in_both() -> None:
    exact = victim(sample(True, None))
    assert comparison_sentence(attack([result(0, 20.0)], [exact])).endswith("since no sample has a PSNR in both.")
