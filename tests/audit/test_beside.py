"""A run that is made for a comparison alone: what it reads counts as what the attack itself reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from leakaudit.attacks.registry import create
from leakaudit.audit.turns import Turn, leaking_rivals, with_leaks_beside
from leakaudit.audit.victim import Outcome
from leakaudit.reconstruction import Reconstruction


def outcome(leaked: bool, match: float = 0.5, number: int = 0) -> Any:
    made = Reconstruction(inputs=torch.zeros(1, 3, 4, 4), labels=torch.zeros(1), match=match, exact=False)
    victim: Any = SimpleNamespace(number=number, batch=SimpleNamespace(known=True))
    scores: Any = [SimpleNamespace(leaked=leaked)]
    rest: dict[str, Any] = {"certificate": None, "recovered": None, "seed": 0, "measure": None, "task": None}
    return Outcome(victim=victim, reconstruction=made, scores=scores, **rest)


def test_a_leak_of_the_compared_run_is_a_leak() -> None:
    ig, prior = create("ig", "quick", {}), create("gi-pip", "quick", {})
    own = Turn(ig, [], outcomes=[outcome(False), outcome(True, 0.1, number=1), outcome(True, 0.3, number=2)])
    beside = [outcome(True), outcome(True, 0.2, number=1), outcome(True, 0.2, number=2), outcome(True, number=3)]
    rival = Turn(ig, [], beside=prior, outcomes=beside)
    first, second, third, fourth = with_leaks_beside(own, [own, rival])
    assert first.leaked
    assert prior.title in first.reconstruction.notes[-1], "the report says where it is from"
    assert second is own.outcomes[1], "of two that leak the one that matches better counts"
    assert third.reconstruction.match == 0.2
    assert fourth.victim.number == 3, "also of a victim that the attack itself did not get to"


def test_a_compared_run_that_shows_nothing_changes_nothing() -> None:
    ig, prior = create("ig", "quick", {}), create("gi-pip", "quick", {})
    own = Turn(ig, [], outcomes=[outcome(False)])
    assert with_leaks_beside(own, [own, Turn(ig, [], beside=prior, outcomes=[outcome(False, 0.1)])]) == own.outcomes
    other = Turn(create("dia", "quick", {}), [], beside=prior, outcomes=[outcome(True)])
    assert with_leaks_beside(own, [own, other]) == own.outcomes, "another attack's reading is not this one's"


def test_a_leak_of_a_run_that_nobody_asked_for_counts_as_its_own() -> None:
    ig, prior, other = create("ig", "quick", {}), create("gi-pip", "quick", {}), create("gias", "quick", {})
    turns = [
        Turn(prior, [], outcomes=[outcome(False)]),
        Turn(ig, [], beside=prior, outcomes=[outcome(False)]),
        Turn(ig, [], beside=other, outcomes=[outcome(True)]),
    ]
    assert leaking_rivals(turns, {"gi-pip", "gias"}) == turns[2:]
    assert leaking_rivals(turns, {"gi-pip", "gias", "ig"}) == [], "counted with what was asked for"
    assert leaking_rivals(turns[:2], {"gi-pip"}) == [], "one that read nothing is a comparison"
