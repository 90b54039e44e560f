"""The settings that ``leakaudit defend`` measured, in every format that people and programs read."""

from __future__ import annotations

import csv
import io
from typing import Any
from xml.etree import ElementTree

import pytest

from leakaudit.document.schema import AccountingEntry, DefenceTrial, Report
from leakaudit.document.status import RunStatus
from leakaudit.report.formats.csv import TRIALS, render_csv
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.formats.markdown import render_markdown
from tests.report.builder import build

BOUND = AccountingEntry(
    epsilon=4.0, delta=1e-5, noise_multiplier=1.0, rate=1.0, steps=1, prior=0.01, reconstruction=0.09,
    reconstruction_one_step=0.09, unit="client",
)  # fmt: skip


def trial(text: str, **more: Any) -> DefenceTrial:
    usual: dict[str, Any] = {"title": text or "No defence", "status": RunStatus.RUN, "attacked": 2, "loss": 1.5}
    return DefenceTrial(text=text, **{**usual, **more})


TRIALS_MEASURED = (
    trial("", leaked=2, leaked_interval=[0.2, 1.0]),
    trial("clip=1,noise=1,per=update", meets=True, recommended=True, accounting=BOUND),
    trial("prune=0.9|x", leaked=1),
    trial("mine:filter", evaluated=False, meets=True, recommended=True),
    trial("accumulate=4", status=RunStatus.NOT_RUN, reason="too few samples", meets=True, attacked=0),
)


@pytest.fixture
def report() -> Report:
    update = {"trials": list(TRIALS_MEASURED), "goal": "leaked=0", "recommendation": "clip=1,noise=1 is the cheapest."}
    return build(victims=1).model_copy(update=update)


def test_what_was_not_evaluated_meets_nothing() -> None:
    """In the document itself: neither in what is written nor in what is read."""
    for one in TRIALS_MEASURED[3:]:
        assert not one.meets
        assert not one.recommended
        again = DefenceTrial.model_validate({**one.model_dump(), "meets": True, "recommended": True})
        assert not again.meets
        assert not again.recommended
    assert TRIALS_MEASURED[1].meets


def test_markdown_has_the_table(report: Report) -> None:
    text = render_markdown(report)
    assert "### Settings measured against leaked=0" in text
    rows = [
        line
        for line in text.splitlines()
        if line.startswith("| ") and ("undefended" in line or "\\=" in line or "=" in line)
    ]
    assert any("undefended" in row for row in rows)
    (chosen,) = [row for row in rows if "recommended" in row]
    assert "probability 0.09 (a client)" in chosen
    (pruned,) = [row for row in rows if "prune" in row]
    assert pruned.replace("\\|", "").count("|") == chosen.replace("\\|", "").count("|"), "a bar in a name is no cell"
    assert "not evaluated" in text
    assert "too few samples" in text
    assert "Settings measured" not in render_markdown(report.model_copy(update={"trials": []}))


def test_csv_has_a_row_per_setting(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    settings = [row for row in rows if row["setting"]]
    assert [row["setting"] for row in settings] == ["undefended", *(t.text for t in TRIALS_MEASURED[1:])]
    assert [row["meets_goal"] for row in settings] == ["False", "True", "False", "False", "False"]
    assert (settings[1]["epsilon"], settings[1]["unit"]) == ("4.0", "client")
    assert settings[2]["epsilon"] == ""
    assert settings[4]["reason"] == "too few samples"
    assert all(row["attack"] == "" for row in settings)
    assert len(rows) > len(settings), "reconstructions of the undefended model stay"
    plain = render_csv(report.model_copy(update={"trials": []}))
    assert not set(TRIALS) & set(plain.splitlines()[0].split(","))


@pytest.mark.parametrize("enough", [True, False])
def test_junit_has_a_case_per_setting(report: Report, enough: bool) -> None:
    if not enough:
        trials = [t.model_copy(update={"recommended": False}) for t in report.trials]
        report = report.model_copy(update={"trials": trials, "recommendation": "No setting tried meets leaked=0."})
    root = ElementTree.fromstring(render_junit(report))
    (suite,) = [suite for suite in root if suite.get("name") == "leakaudit.defences"]
    cases = list(suite)
    assert [case.get("name") for case in cases[:2]] == ["undefended", "clip=1,noise=1,per=update"]
    assert [case.find("skipped") is not None for case in cases] == [False, False, False, True, True, False]
    assert (cases[-1].find("failure") is None) is enough
    assert suite.get("failures") == ("0" if enough else "1")
    assert int(root.get("tests", "0")) == sum(len(list(each)) for each in root)
