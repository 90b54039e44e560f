"""Each letter of the threat model is told in the same words everywhere: the report's views and the documentation."""

from __future__ import annotations

from typing import get_args

import pytest

from leakaudit.document.threat_models import ADDITIONS, BEYOND, added, held, scope
from leakaudit.observation import ThreatModel
from tests.conftest import ROOT


def test_every_letter_that_an_attack_may_need_is_told() -> None:
    assert tuple(ADDITIONS) == get_args(ThreatModel)
    assert tuple(scope()) == (*get_args(ThreatModel), BEYOND)


def test_the_page_on_threat_models_has_the_lines_of_the_report() -> None:
    page = (ROOT / "docs" / "threat-models.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    assert rows[1:] == [[letter, attacker] for letter, attacker in scope().items()]


@pytest.mark.parametrize("letter", ADDITIONS)
def test_a_letter_has_all_that_the_ones_before_have(letter: str) -> None:
    told, detailed = held(letter), held(letter, detailed=True)
    for other, addition in ADDITIONS.items():
        assert (addition.thing in told) == (other <= letter)
        assert (f"{addition.thing} ({addition.details})" in detailed) == (other <= letter and addition.details != "")
    assert added(letter) in scope()[letter]


def test_what_an_attacker_learns_from_stands_for_similar_samples() -> None:
    assert held("D", similar="64 public samples").endswith("details of the training and samples to learn from")
    assert held("D", detailed=True, similar="64 public samples").endswith("samples to learn from (64 public samples)")
    assert held("C", detailed=True, similar="64 public samples") == held("C", detailed=True)
