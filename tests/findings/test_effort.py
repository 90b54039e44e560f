"""The verdict follows evidence: what an attack must have done for its failure to say something."""

from __future__ import annotations

from typing import Any

import pytest

from leakaudit.document.schema import AttackEntry, ControlEntry, HistoryPoint, Verdict, VictimResult
from leakaudit.document.status import Cause, Cut, Lost, VerdictStatus
from leakaudit.findings import judge
from leakaudit.findings.effort import starved
from leakaudit.findings.verdict import conclude
from tests.findings.build import CONTROLS, control, entry, evidence, sample, victim


def ran(*iterations: int, planned: int | None = 100, **more: Any) -> AttackEntry:
    """An attack that recovered nothing, with so many iterations on each victim."""
    results = [victim(sample(False), victim=n, iterations=done) for n, done in enumerate(iterations)]
    return entry(results=results, planned=planned, **more)


def history(*objectives: float | None) -> list[HistoryPoint]:
    return [HistoryPoint(iteration=n, objective=value, match=value) for n, value in enumerate(objectives)]


def stuck(*objectives: float | None, **more: Any) -> AttackEntry:
    return entry(results=[victim(sample(False), history=history(*objectives), **more)])


def told(attacks: list[AttackEntry], controls: list[ControlEntry]) -> tuple[Verdict, set[str]]:
    found = evidence(attacks, controls=controls)
    findings = judge(found)
    return conclude(found, findings, "quick"), {f.id for f in findings}


LEFT = Cut(Lost.VICTIMS, Cause.BUDGET, 1, 4)
ALGEBRA: dict[str, Any] = {"name": "linear", "title": "LINEAR", "family": "closed form", "planned": None}
NOT_RUN = [control("positive", None)]
FAILED = [control("positive", False)]
WEAK = {
    "no controls": ([ran(100)], []),
    "the control was not run": ([ran(100)], NOT_RUN),
    "the control failed": ([ran(100)], FAILED),
    "the control is of another attack": ([ran(100)], [control("positive", True, "dia")]),
    "one iteration on one victim of four": ([ran(1, cut=LEFT)], CONTROLS),
    "less than a tenth of the plan": ([ran(9, 9)], CONTROLS),
    "a tenth of the plan on one victim of four": ([ran(39, cut=LEFT)], CONTROLS),
    "the objective did not fall": ([stuck(1.0, 0.95)], CONTROLS),
    "the objective was never a number": ([stuck(None, None)], CONTROLS),
    "no history": ([stuck()], CONTROLS),
    "one victim's objective did not fall": (
        [entry(results=[victim(sample(False)), victim(sample(False), victim=1, history=history(1.0, 0.99))])],
        CONTROLS,
    ),
    "one of two attacks": ([ran(100), ran(1, name="dia")], [*CONTROLS, control("positive", True, "dia")]),
    "another attack did not run for lack of time": (
        [ran(100), entry(results=[], name="dia", status="not_run", cut=LEFT)],
        CONTROLS,
    ),
    "algebra that fails on what it is made for": ([ran(0, **ALGEBRA)], [control("positive", False, "linear")]),
    "algebra alone, which no network fits": ([ran(0, **ALGEBRA)], [control("positive", None, "linear")]),
    "algebra that was stopped": (
        [entry(results=[victim(sample(False), cuts=[Cut(Lost.ROUNDS, Cause.BUDGET, 1, 9)])], **ALGEBRA)],
        [control("positive", True, "linear")],
    ),
}
SOUND = {
    "all of the plan": ([ran(100, 100)], CONTROLS),
    "a tenth of the plan": ([ran(10, 10)], CONTROLS),
    "most victims": ([ran(100, cut=Cut(Lost.VICTIMS, Cause.BUDGET, 1, 2))], CONTROLS),
    "an end by itself": ([stuck(1e-9, 1e-9, match=1e-9)], CONTROLS),
    "no plan told": ([ran(7, planned=None)], CONTROLS),
    "algebra whose control passed": ([ran(0, **ALGEBRA)], [control("positive", True, "linear")]),
    "algebra that no network fits, beside a search": (
        [ran(100), ran(0, **ALGEBRA)],
        [*CONTROLS, control("positive", None, "linear")],
    ),
}


@pytest.mark.parametrize("case", WEAK)
def test_a_weak_audit_is_inconclusive(case: str) -> None:
    verdict, findings = told(*WEAK[case])
    assert verdict.code is VerdictStatus.INCONCLUSIVE
    assert verdict.inconclusive
    assert verdict.headline.startswith("Nothing was shown, which says little: ")
    assert findings & {"LA950", "LA958"} or case == "algebra alone, which no network fits"


@pytest.mark.parametrize("case", SOUND)
def test_a_sound_audit_is_not_shown(case: str) -> None:
    verdict, findings = told(*SOUND[case])
    assert verdict.code is VerdictStatus.NOT_SHOWN
    assert "LA958" not in findings


def test_the_headline_says_what_was_run() -> None:
    verdict, _ = told([ran(1, planned=6000, cut=LEFT)], CONTROLS)
    assert verdict.headline == (
        "Nothing was shown, which says little: IG ran 1 of 6000 iterations on 1 of 4 victims, "
        "and that is 0.0042 % of its plan"
    )
    verdict, _ = told([ran(600, 480, planned=600)], CONTROLS)
    assert verdict.headline == (
        "No reconstruction was shown with the 'quick' budget: IG ran 480 to 600 of 600 iterations on 2 of 2 victims"
    )


def test_a_leak_needs_no_budget() -> None:
    leaked: VictimResult = victim(sample(True), iterations=1)
    verdict, findings = told([entry(results=[leaked], planned=6000)], [])
    assert verdict.code is VerdictStatus.LEAKS_MEASURED
    assert "LA958" not in findings


def test_what_had_too_little_time_is_starved() -> None:
    nothing = entry(results=[], status="not_run", cut=Cut(Lost.VICTIMS, Cause.BUDGET, 0, 4))
    assert not starved([ran(100), ran(10), ran(0, planned=None), entry(results=[], status="not_run")])
    assert starved([ran(100), nothing])
    assert starved([ran(100), ran(9)])
    assert starved([ran(39, cut=LEFT)])
    assert not starved([ran(100), ran(1, upper_bound=True)])
