"""Settings are not called enough by attacks that miss what is known to leak."""

from __future__ import annotations

from typing import Any

import pytest

from leakaudit.document.schema import ControlEntry, DefenceTrial
from leakaudit.document.status import RunStatus
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.views.trials import trial_table
from leakaudit.sweeps import defend
from leakaudit.sweeps.goal import parse_goal
from tests.report.builder import build


def control(passed: bool | None) -> ControlEntry:
    return ControlEntry(kind="positive", attack="ig", passed=passed, detail="a network known to leak")


def trial(text: str, leaked: int = 0) -> DefenceTrial:
    return DefenceTrial(
        text=text, title=text, status=RunStatus.RUN, evaluated=True, attacked=2, leaked=leaked, meets=not leaked,
        loss=1.0, value=float(leaked),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("passed", "lame"),
    [((False,), True), ((False, False), True), ((False, True), False), ((None,), False), ((), False)],
)
def test_attacks_are_lame_where_none_recovers_what_is_known(passed: tuple[bool | None, ...], lame: bool) -> None:
    report = build(victims=1, runs=1).model_copy(update={"controls": [control(one) for one in passed]})
    assert defend._lame(report) is lame


def test_nothing_is_recommended_and_no_setting_is_judged_but_by_a_leak() -> None:
    rows = [defend._undecided(row) for row in (trial(""), trial("sign"), trial("prune=0.9", leaked=1))]
    assert [row.meets for row in rows] == [False, False, False]
    assert [bool(row.reason) for row in rows] == [True, True, False]
    nothing: Any = None
    sweep = defend._Sweep(*[nothing] * 4, parse_goal("leaked=0"), *[nothing] * 4, lame=True)
    chosen, why = sweep.recommend(rows, nothing)
    assert chosen is None
    assert why.startswith("No setting can be recommended: the attacks do not recover what is known to leak")
    report = build(victims=1, runs=1).model_copy(update={"trials": rows, "goal": "leaked=0", "recommendation": why})
    table = trial_table(report)
    place = [name for name, _ in table.columns].index("Goal")
    assert [row.cells[place].text for row in table.rows] == ["–", "–", "missed"]
    assert any("undecided: the attacks do not recover" in note for note in table.notes)
    assert render_junit(report).count("undecided: the attacks do not recover") == 2
