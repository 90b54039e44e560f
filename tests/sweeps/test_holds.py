"""A goal of `leakaudit defend` is met by evidence only, never beside a leak, and never for lack of time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leakaudit import Report
from leakaudit.document.schema import ControlEntry, DefenceTrial
from leakaudit.document.status import RunStatus
from leakaudit.domains.specs import IMAGES
from leakaudit.observer import SilentObserver
from leakaudit.sweeps.defend import _Sweep
from leakaudit.sweeps.goal import parse_goal
from tests.report.builder import build

NOBODY: Any = None
"""Runs no audit."""


def sweep(goal: str) -> _Sweep:
    nothing: Any = None
    asked: Any = SimpleNamespace(preset="standard", seed=0)
    wanted = parse_goal(goal).among(IMAGES)
    return _Sweep(nothing, nothing, nothing, asked, wanted, nothing, nothing, SilentObserver(), nothing)


def report(psnr: float, leaked: bool, iterations: int = 600, passed: bool | None = None) -> Report:
    document = build(victims=1)
    for attack in document.attacks:
        attack.planned = 600
        for result in attack.results:
            result.iterations = iterations
            for sample in result.samples:
                sample.metrics["psnr"], sample.leaked = psnr, leaked
    control = ControlEntry(kind="positive", attack="ig", passed=passed, detail="as told")
    return document.model_copy(update={"controls": [control]})


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (report(14.7, leaked=False), True),
        (report(14.7, leaked=True), False),
        (report(15.1, leaked=False), False),
        (report(14.7, leaked=False, iterations=6), False),
        (report(14.7, leaked=False, passed=False), False),
    ],
    ids=["within", "beside a leak", "above", "starved", "by an attack that does not work"],
)
def test_a_goal_is_met_by_evidence_only(found: Report, holds: bool) -> None:
    assert sweep("PSNR<15")._holds(found) is holds


def test_the_recommendation_says_that_samples_leak_within_the_limit() -> None:
    leaky = DefenceTrial(text="", title="No defence", status=RunStatus.RUN, leaked=1, value=14.7, meets=False)
    chosen, why = sweep("PSNR<15").recommend([leaky], NOBODY)
    assert chosen is None
    assert "since samples leak although the limit holds (no defence)" in why
    quiet = leaky.model_copy(update={"leaked": 0, "meets": True})
    assert "already meets PSNR<15" in sweep("PSNR<15").recommend([quiet], NOBODY)[1]
