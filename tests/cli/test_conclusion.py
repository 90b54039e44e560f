"""The end of a scan on the terminal: a table, why it ends so, and what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leakaudit.cli.conclusion import conclude, conclude_trials, exit_code, next_steps, reason
from leakaudit.document.schema import DefenceTrial, Report
from leakaudit.document.status import RunStatus, VerdictStatus
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy
from tests.report.builder import build


def judged(policy: Policy | None = None, baseline: Report | None = None, **changes: Any) -> Report:
    return apply_policy(build(victims=1, runs=1, **changes), policy or Policy(), baseline=baseline)


def quiet_verdict(code: VerdictStatus) -> Any:
    verdict = build(victims=1, runs=1).verdict
    return verdict.model_copy(update={"code": code, "status": str(code), "severity": "none"})


def test_a_failing_finding_is_the_reason_and_what_comes_next() -> None:
    report = judged()
    assert exit_code(report) == 1
    assert reason(report) == "LA201 fails: severity critical, the policy fails on high or above"
    first, second = next_steps(report)
    assert first == "leakaudit explain LA201"
    assert second.startswith("leakaudit defend 'models/cnn6 d.onnx' --batch batch.npz --victims 1 measures ")


def test_a_known_leak_passes_and_the_reason_says_so() -> None:
    report = judged(baseline=build(victims=1, runs=1))
    assert exit_code(report) == 0
    assert reason(report).startswith("it leaks, and the policy lets it pass: in the baseline, not worse")


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"partial": "interrupted by the user"}, 130, "partial report: interrupted by the user"),
        ({"findings": [], "code": VerdictStatus.INCONCLUSIVE}, 5, "nothing can be concluded either: INCONCLUSIVE"),
        ({"findings": [], "code": VerdictStatus.NOT_SHOWN}, 0, "no finding fails the policy"),
    ],
)
def test_other_ends(changes: dict[str, Any], code: int, told: str) -> None:
    if "code" in changes:
        changes = {**changes, "verdict": quiet_verdict(changes["code"])}
        del changes["code"]
    report = judged(**changes)
    assert exit_code(report) == code
    assert told in reason(report)


def test_the_table_has_a_row_for_every_attack_that_ran(capsys: pytest.CaptureFixture[str]) -> None:
    report = judged()
    assert conclude(report, [Path("out/report.html")], brief=False) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"LEAKS (measured): {report.verdict.headline}"
    ran = [attack for attack in report.attacks if attack.status == "run"]
    for attack in ran:
        assert attack.title in out
    headings = next(line for line in out.splitlines() if line.strip().startswith("attack "))
    assert headings.split()[:2] == ["attack", "leaked"]
    assert headings.split()[-1] == "time"
    assert "Exit 1: LA201 fails" in out
    assert out.splitlines()[-1] == "Report: out/report.html"
    assert "\x1b" not in out


def test_attacks_that_leaked_are_red_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    report = judged()
    conclude(report, [], brief=False)
    lines = capsys.readouterr().out.splitlines()
    leaked = {a.title: any(s.leaked for r in a.results for s in r.samples) for a in report.attacks if a.status == "run"}
    assert any(leaked.values())
    begins = next(i for i, line in enumerate(lines) if "leaked" in line and "time" in line and "attack" in line)
    ends = next(i for i, line in enumerate(lines) if line.startswith("Exit"))
    for title, red in leaked.items():
        (row,) = [line for line in lines[begins:ends] if title in line]
        assert ("\x1b[31m" in row) == red


def test_in_brief_there_is_neither_table_nor_advice(capsys: pytest.CaptureFixture[str]) -> None:
    conclude(judged(), [], brief=True)
    out = capsys.readouterr().out
    assert not [line for line in out.splitlines() if line.startswith(("attack", "Exit", "Next"))]


@pytest.mark.parametrize(
    ("chosen", "meets", "code", "why"),
    [
        (True, False, 0, "Exit 0: sign meets leaked=0"),
        (False, True, 0, "Exit 0: the undefended model meets leaked=0"),
        (False, False, 1, "Exit 1: no setting is recommended for leaked=0"),
    ],
)
def test_a_comparison_of_defences_ends_with_a_table_and_a_reason(
    chosen: bool, meets: bool, code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = build(victims=1, runs=1)
    measured: dict[str, Any] = {"status": RunStatus.RUN, "attacked": 2, "loss": 1.7}
    report.trials = [
        DefenceTrial(text="", title="No defence", leaked=1, meets=meets, **measured),
        DefenceTrial(text="sign", title="Signs", leaked=0, recommended=chosen, **measured),
    ]
    report.goal, report.recommendation = "leaked=0", "What was measured."
    assert conclude_trials(report, [Path("report.html")], brief=False) == code
    written = capsys.readouterr().out
    assert why in written
    assert "1 of 2" in written
    assert "held-out loss" in written
    conclude_trials(report, [], brief=True)
    assert capsys.readouterr().out == "What was measured.\n"


def test_the_next_step_measures_the_same_batches() -> None:
    report = judged()
    same = ["net.pt", "--factory", "nets:net", "--batch", "rows.npz", "--batch-size", "4", "--schema", "columns.toml"]
    report.command = ["leakaudit", "scan", *same, "--checkpoints", "late.pt", "--no-cache", "--mode", "train"]
    _, second = next_steps(report)
    assert second.startswith(f"leakaudit defend {' '.join(same)} --no-cache --mode train measures")
    report.command = []
    _, second = next_steps(report)
    assert second.startswith("leakaudit defend MODEL --batch FILE measures")
