"""A time budget goes to what pays most, what it cut is said, and a full GPU ends one attack only."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, nn

import leakaudit
from leakaudit.attacks.ig import IG
from leakaudit.attacks.registry import create
from leakaudit.audit.budget import Budget
from leakaudit.audit.campaign import Queue
from leakaudit.audit.memory import Memory
from leakaudit.audit.request import Request
from leakaudit.observation import Observation
from leakaudit.observer import SilentObserver
from leakaudit.reconstruction import Monitor, Reconstruction
from leakaudit.target.target import Target
from tests.audit.build import scan
from tests.conftest import small_mlp

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
    share = {
        number: Queue(*rest, budget, Memory(), [], {number}).monitor(attack, victims).seconds_left()
        for number in (0, 1)
    }
    assert share[0] == pytest.approx(BUDGET * 0.25 / 1.25, rel=0.01)
    assert share[1] == pytest.approx(BUDGET / 1.25, rel=0.01)


def test_the_report_says_what_was_cut() -> None:
    settings = {"ig": {"iterations": "1000000", "search": "false"}}
    report = scan(small_mlp(), settings=settings, victims=2, time_budget=6.0, controls="none")
    ig = report.attacks[0]
    assert ig.status == "run"
    assert ig.reason.startswith("time budget: ")
    assert ig.reason.endswith("of 1000000 iterations planned per restart, on 2 of 2 victims")
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


def test_what_stands_before_the_attacks_counts_up_to_half_of_the_budget() -> None:
    """Rank analysis of a large network is no reason to exceed it, nor to attack nothing."""
    for spent, left in ((0.0, 100.0), (20.0, 80.0), (500.0, 50.0)):
        seconds = Budget.of(SilentObserver(), 100.0, spent=spent).share(1).seconds_left()
        assert seconds == pytest.approx(left, abs=1)


def test_a_certificate_ends_a_tenth_after_its_run() -> None:
    now = time.monotonic()
    assert Budget(SilentObserver(), now - 1.0, now).share(1).over()
    monitor = Budget(SilentObserver(), now + 0.05, now).share(1)
    time.sleep(0.052)
    assert monitor.should_stop()
    assert Budget.of(SilentObserver(), 100.0).share(1).over() is False
    assert Budget(SilentObserver()).share(1).over() is False
