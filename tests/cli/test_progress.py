"""Progress in a pipe: a line per run, one where nothing was said for long, and an estimate of the whole audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakaudit.api import scan
from leakaudit.audit.budget import Budget
from leakaudit.cli import progress
from leakaudit.cli.progress import SILENCE, TerminalObserver
from leakaudit.observer import SilentObserver, remark


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(progress.time, "monotonic", moved)
    return moved


class Lines:
    """What was written to standard error so far."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured, self._all = captured, ""

    def all(self) -> list[str]:
        self._all += self._captured.readouterr().err
        return self._all.splitlines()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


def test_a_pipe_is_told_what_is_under_way_and_how_long_it_takes(clock: Clock, lines: Lines) -> None:
    observer = TerminalObserver(0)
    observer.stage("rank analysis")
    clock.now += SILENCE - 1
    observer.pulse()
    assert lines.all() == ["· rank analysis"], "nothing before it is due"
    clock.now += 1
    observer.pulse()
    assert lines.all()[-1] == "  … rank analysis"
    observer.plan(0, 100, 400)
    observer.attack("IG", 0, 3)
    clock.now += 20
    observer.progress(0.5, 1.0)
    observer.pulse()
    last = lines.all()[-1]
    assert last == "  … IG, victim 1 of 3: 50%; 12% of the audit, about 2 min 20 s left"
    observer.result("IG", "victim 0: best 30 dB")
    observer.pulse()
    assert lines.all()[-1] == "  IG, victim 0: best 30 dB", "a line was said just now"


def test_a_quiet_audit_says_nothing(clock: Clock, lines: Lines) -> None:
    observer = TerminalObserver(-1)
    observer.stage("controls")
    clock.now += 100
    observer.pulse()
    observer.result("IG", "done")
    assert lines.all() == []


def test_the_pulse_beats_while_the_program_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    with progress._pulsing(lambda: beats.append(1), every=0.01):
        while len(beats) < 3:
            pass
    ended = len(beats)
    assert ended >= 3


class Planned(SilentObserver):
    """Takes down the plan."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []

    def plan(self, done: int, current: int, total: int) -> None:
        self.told.append((done, current, total))


def test_the_plan_of_an_audit_counts_no_run_twice(model: Path, batch: Path) -> None:
    observer = Planned()
    settings = {"ig": {"iterations": "4"}}
    scan(model, batch, observer=observer, attacks=("ig",), preset="quick", settings=settings, victims=2)
    dones = [done for done, _, _ in observer.told]
    assert dones == sorted(dones), "what is done does not shrink"
    assert dones[-1] == 2 * 4, "before the control both victims are done, and none is counted twice"
    assert observer.told[0][2] >= 2 * 4, "the whole has the runs of both victims"


def test_a_stage_without_a_run_has_no_share_of_one(clock: Clock, lines: Lines) -> None:
    observer = TerminalObserver(0)
    observer.plan(0, 10, 20)
    observer.attack("IG", 0, 1)
    observer.progress(1.0, 0.0)
    observer.stage("rendering the report")
    clock.now += 2 * SILENCE
    observer.pulse()
    assert lines.all()[-1] == "  … rendering the report"


def test_the_plan_counts_on_from_the_attacks_to_the_controls() -> None:
    from leakaudit.attacks.registry import create

    observer = Planned()
    budget = Budget.of(observer, None)
    budget.work.total = 1000
    attack = create("ig", "quick", {"iterations": "300"})
    budget.work.begin(attack, 2)
    budget.whole().work.begin(attack)
    budget.whole().work.begin(attack)
    assert observer.told == [(0, 600, 1000), (600, 300, 1000), (900, 300, 1200)]


def test_a_remark_is_no_stage_and_the_bar_keeps_its_place(clock: Clock, lines: Lines) -> None:
    observer = TerminalObserver(0)
    observer.stage("measuring a step of an attack")
    remark(observer, "the model classifies 27% of 48 samples right")
    clock.now += SILENCE
    observer.pulse()
    assert lines.all()[-1] == "  … measuring a step of an attack"
    observer.stage("a stage whose name is far too long for the bar of a terminal")
    assert len(observer._bar.tasks[0].description) <= progress.LONGEST


def test_an_observer_without_remarks_is_told_them_as_stages() -> None:
    class Older(SilentObserver):
        told = ""

        def stage(self, message: str) -> None:
            self.told = message

    observer = Older()
    remark(observer, "27% right")
    assert observer.told == "27% right"


def test_the_bar_of_the_next_audit_of_a_sweep_begins_anew(clock: Clock) -> None:
    observer = TerminalObserver(0)
    observer.plan(0, 10, 10)
    observer.attack("IG", 0, 1)
    clock.now += 1
    observer.progress(1.0, 0.0)
    assert "100% of the audit" in observer._bar.tasks[0].fields["rest"]
    observer.stage("rendering the report")
    assert observer._bar.tasks[0].fields["rest"] == ""
    assert observer._bar.tasks[0].percentage == 100.0, "the same audit goes on"
    observer.plan(0, 10, 10)
    assert observer._bar.tasks[0].percentage == 0.0
