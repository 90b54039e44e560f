"""A time budget goes to what pays most, what it cut is said, and a full GPU ends one attack only."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, nn

import leakaudit
from leakaudit.api import plans
from leakaudit.attacks.ig import IG
from leakaudit.attacks.registry import create
from leakaudit.audit.budget import Budget, Line, allotted
from leakaudit.audit.memory import Memory
from leakaudit.audit.pace import Need, Pace
from leakaudit.audit.queue import Queue
from leakaudit.audit.request import Request
from leakaudit.document.status import Cause, Cut, Lost
from leakaudit.matching.engine import measure_part, measure_step
from leakaudit.observation import Observation
from leakaudit.observer import SilentObserver
from leakaudit.reconstruction import Monitor, Reconstruction
from leakaudit.target.target import Target
from tests.audit.build import scan
from tests.conftest import small_mlp, smooth_images

BUDGET = 1000.0


@pytest.fixture
def seconds_of_ig(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What IG is given, run by run."""
    given: list[float] = []

    def run(
        self: IG, target: Target, observation: Observation, generator: Generator, monitor: Monitor
    ) -> Reconstruction:
        left = monitor.seconds_left()
        assert left is not None
        given.append(left)
        assert observation.labels is not None
        return Reconstruction(torch.zeros(1, 3, 12, 12), observation.labels, 1.0)

    monkeypatch.setattr(IG, "run", run)
    return given


def test_nothing_is_kept_back_for_attacks_that_will_not_run(seconds_of_ig: list[float]) -> None:
    attacks = ["ig", "wia", "dia", "gradinversion"]
    report = scan(small_mlp(), attacks=attacks, victims=2, time_budget=BUDGET, controls="none")
    assert [a.name for a in report.attacks if a.status == "run"] == ["ig"]
    assert seconds_of_ig[0] == pytest.approx(BUDGET / 2, rel=0.05)
    assert seconds_of_ig[1] == pytest.approx(BUDGET, rel=0.05)  # the first left its share


def test_later_attacks_keep_their_share(seconds_of_ig: list[float]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 5))
    settings = {"ig": {}, "dia": {"iterations": "2"}, "wia": {"iterations": "2"}}
    options: dict[str, Any] = {"time_budget": BUDGET, "controls": "none", "preset": "quick", "settings": settings}
    scan(net, mode="train", attacks=["ig", "dia", "wia"], **options)
    assert seconds_of_ig[0] == pytest.approx(BUDGET / 2.5, rel=0.05)  # the yardstick counts half


def test_a_recovered_victim_gets_less() -> None:
    attack = create("ig", "quick")
    victims: Any = [SimpleNamespace(number=0), SimpleNamespace(number=1)]
    budget = Budget.of(SilentObserver(), BUDGET)
    rest: Any = (None, None, Request())
    pace: Any = SimpleNamespace(of=lambda attack: None)
    share: dict[int, float] = {}
    for number in (0, 1):
        monitor = Queue(*rest, budget, Memory(), pace, [], {number}).monitor(attack, victims)
        assert monitor is not None
        share[number] = monitor.seconds_left() or 0.0
    assert share[0] == pytest.approx(BUDGET * 0.25 / 1.25, rel=0.01)
    assert share[1] == pytest.approx(BUDGET / 1.25, rel=0.01)


def test_the_report_says_what_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "step", 0.001)
    settings = {"ig": {"iterations": "1000000", "search": "false"}}
    report = scan(small_mlp(), settings=settings, victims=1, time_budget=5.0, controls="none")
    ig = report.attacks[0]
    assert ig.status == "run"
    assert ig.reason.startswith("time budget: ")
    assert ig.reason.endswith("of 1000000 iterations planned per restart, on 1 of 1 victims")
    (finding,) = [f for f in report.findings if f.id == "LA953"]
    assert "given fewer iterations than their preset has: ig" in finding.message.lower()
    assert "not run on" not in finding.message.lower()


def test_out_of_memory_ends_one_attack_and_not_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> Reconstruction:
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(IG, "run", run)
    report = scan(small_mlp(), attacks=["linear", "ig"], settings={}, controls="none")
    found = {a.name: (a.status, a.reason) for a in report.attacks}
    assert found["linear"][0] == "run"
    assert found["ig"] == (
        "not_run",
        "out of memory: 0 of 1 victims attacked; use --device cpu, or a smaller --batch-size",
    )
    (finding,) = [f for f in report.findings if f.id == "LA953"]
    assert finding.message.startswith("Not run on every victim: IG")


def test_the_public_api_passes_it_on() -> None:
    with pytest.raises(leakaudit.LeakauditError, match="more than 0"):
        scan(small_mlp(), time_budget=0.0)


def test_what_stands_before_the_attacks_counts_and_leaves_a_tenth() -> None:
    """Rank analysis of a large network is no reason to exceed the budget, nor to try no closed form."""
    for spent, left in ((0.0, 95.0), (20.0, 75.0), (500.0, 10.0)):
        seconds = Budget.of(SilentObserver(), 100.0, spent=spent).share(1).seconds_left()
        assert seconds == pytest.approx(left, abs=1)


NEED = Need(step=0.9, steps=100, fewest=10)
"""100 s for all of it, 10 s at least."""


@pytest.mark.parametrize(
    ("line", "left", "whole", "given"),
    [
        (Line(1.0, rest=1.0), 300.0, 300.0, 150.0),  # more than enough: each its share
        (Line(1.0, rest=3.0), 200.0, 200.0, 125.0),  # one to its end, not four begun
        (Line(1.0, rest=3.0, control=None), 90.0, 120.0, 60.0),  # as much is kept for the control
        (Line(1.0, rest=3.0, control=70.0, first=False), 90.0, 120.0, 50.0),  # what that is known to take
        (Line(1.0, rest=3.0, control=115.0, first=False), 90.0, 120.0, None),  # no further victim for 5 s
        (Line(1.0, after=9.0, once=9.0), 20.0, 20.0, 20.0),  # later attacks would leave it 2 s
        (Line(1.0, after=9.0, once=9.0, light=True), 20.0, 20.0, None),  # what is tried in passing takes from nobody
        (Line(1.0, control=None), 9.0, 18.0, 18.0),  # better an attack without a control than neither
        (Line(1.0, control=None), 4.0, 8.0, None),
    ],
)
def test_something_is_finished(line: Line, left: float, whole: float, given: float | None) -> None:
    assert allotted(NEED, line, left, whole) == (None if given is None else pytest.approx(given))


def test_what_cannot_be_told_gets_its_share() -> None:
    assert allotted(None, Line(1.0, rest=1.0), 10.0, 20.0) == 5.0


def test_a_run_gets_its_plan_before_another_victim_begins(
    seconds_of_ig: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "step", 0.1)
    options: dict[str, Any] = {"settings": {}, "preset": "standard", "controls": "none"}
    scan(small_mlp(), victims=2, time_budget=BUDGET, **options)
    plan = 6000 * 0.1 / 0.9
    assert seconds_of_ig[0] == pytest.approx(1.25 * plan, rel=0.01)


def test_an_attack_that_cannot_do_its_fewest_steps_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "step", 20.0)
    monkeypatch.setattr(IG, "run", None)
    told: list[str] = []

    class Hearing(SilentObserver):
        def stage(self, message: str) -> None:
            told.append(message)

        def result(self, title: str, summary: str) -> None:
            told.append(f"{title}, {summary}")

    began = time.monotonic()
    report = scan(
        small_mlp(), attacks=["linear", "ig"], settings={}, preset="quick", time_budget=60.0, observer=Hearing()
    )
    assert time.monotonic() - began < 60
    found = {a.name: a for a in report.attacks}
    assert found["linear"].status == "run"
    assert (found["ig"].status, found["ig"].cut) == ("not_run", Cut(Lost.VICTIMS, Cause.SHORT, 0, 1))
    assert found["ig"].reason.startswith(
        "time budget too short: 0 of 1 victims attacked: it needs at least 100 steps of 20.0 s, about 37 min 02 s"
    )
    (said,) = [line for line in told if line.startswith("IG (Inverting Gradients), not run")]
    assert "time budget too short" in said
    assert said.split("too short): ")[1] == found["ig"].reason.split("attacked: ")[1]
    (plan,) = [line for line in told if line.startswith("plan: ")]
    assert "not run: time budget too short" in plan
    (way_out,) = [line for line in told if "--time-budget" in line]
    assert way_out.startswith("1 min 00 s are too few for IG (Inverting Gradients) to say something: --time-budget ")
    assert told.index(plan) < told.index(said)


@pytest.mark.parametrize(
    ("first", "later", "measured", "steps"),
    [
        (0.5, 0.01, 0.01, 4),  # what the first loads is not of a step
        (3.0, 0.01, 0.01, 4),  # on a GPU that takes seconds
        (3.0, 2.0, 2.0, 2),
        (20.0, 20.0, 20.0, 1),  # more of them cost what they are to plan
    ],
)
def test_a_step_is_measured_after_one_that_warms_up(
    monkeypatch: pytest.MonkeyPatch, first: float, later: float, measured: float, steps: int
) -> None:
    clock = SimpleNamespace(now=0.0, taken=0)

    class Timed:
        def __init__(self, *_: object) -> None:
            pass

        def __call__(self, values: Any) -> tuple[torch.Tensor]:
            clock.now += later if clock.taken else first
            clock.taken += 1
            return (torch.zeros(1),)

    monkeypatch.setattr("leakaudit.matching.engine.Step", Timed)
    monkeypatch.setattr("leakaudit.matching.engine.time", SimpleNamespace(perf_counter=lambda: clock.now))
    problem: Any = SimpleNamespace(settings=IG.presets["quick"])
    assert measure_step(problem, {"inputs": torch.zeros(1)}) == pytest.approx(measured)
    assert clock.taken == steps


def test_a_step_is_not_measured_where_the_update_alone_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "least", 5.0)
    monkeypatch.setattr(Pace, "step", property(lambda pace: pytest.fail("a step was measured")))
    options: dict[str, Any] = {"attacks": ["ig"], "victims": 1, "input_shape": (3, 12, 12), "time_budget": 60.0}
    (plan,) = plans(small_mlp(), (smooth_images(2), np.arange(2)), **options)
    assert [run.victims for run in plan.runs] == [0]
    assert "steps of more than 5.0 s, about 9 min 16 s and more" in plan.runs[0].reason
    assert "a step takes more than 5.0 s, measured" in plan.lines[0]
    assert " and more" in plan.hopeless


@pytest.mark.parametrize(("least", "budget"), [(0.001, 60.0), (5.0, None)])
def test_a_step_is_measured_where_there_may_be_time_for_it(
    monkeypatch: pytest.MonkeyPatch, least: float, budget: float | None
) -> None:
    monkeypatch.setattr(Pace, "least", least)
    monkeypatch.setattr(Pace, "step", 0.002)
    options: dict[str, Any] = {"attacks": ["ig"], "victims": 1, "input_shape": (3, 12, 12), "time_budget": budget}
    (plan,) = plans(small_mlp(), (smooth_images(2), np.arange(2)), **options)
    assert (plan.step, plan.at_least) == (0.002, False)
    assert plan.runs[0].victims == 1


def test_the_update_alone_takes_less_than_a_step() -> None:
    """By what runs, not by the clock: it is computed without a graph, twice, and the objective not at all."""
    graphs: list[bool] = []

    def regenerate(target: object, play: object, *, create_graph: bool = False) -> dict[str, torch.Tensor]:
        graphs.append(create_graph)
        return {"w": torch.zeros(1)}

    seen = SimpleNamespace(regenerate=regenerate)
    problem: Any = SimpleNamespace(observation=seen, target=None, play=lambda guess: guess)
    assert measure_part(problem, {"inputs": torch.zeros(1)}) > 0
    assert graphs == [False, False]


def test_each_attack_is_asked_once_whether_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan and the audit have one answer."""
    asked: list[int] = []
    applies = IG.applies

    def counted(self: IG, target: Target, observation: Observation) -> Any:
        asked.append(1)
        return applies(self, target, observation)

    monkeypatch.setattr(IG, "applies", counted)
    scan(small_mlp(), settings={"ig": {"iterations": "1", "search": "false"}}, victims=2, controls="none")
    assert len(asked) == 2


def test_the_same_under_the_preset_quick_has_the_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "step", 1.0)
    taken: list[float] = []
    for restarts in ("2", "6"):
        options: dict[str, Any] = {"attacks": ["ig"], "settings": {"ig": {"restarts": restarts}}, "victims": 1}
        samples = (smooth_images(2), np.arange(2))
        (plan,) = plans(small_mlp(), samples, preset="paper", input_shape=(3, 12, 12), **options)
        taken.append(plan.quick)
    assert taken[1] == pytest.approx(3 * taken[0])


def test_a_certificate_ends_a_tenth_after_its_run() -> None:
    now = time.monotonic()
    assert Budget(SilentObserver(), now - 1.0, now).share(1).over()
    monitor = Budget(SilentObserver(), now + 0.05, now).share(1)
    time.sleep(0.052)
    assert monitor.should_stop()
    assert Budget.of(SilentObserver(), 100.0).share(1).over() is False
    assert Budget(SilentObserver()).share(1).over() is False
