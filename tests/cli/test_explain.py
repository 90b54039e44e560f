"""``leakaudit explain``: every finding's page, and one clear line for an id that is none."""

from __future__ import annotations

import pytest

from leakaudit.findings import RULES
from tests.cli.build import leakaudit


def test_the_list_names_every_finding() -> None:
    code, out, _ = leakaudit("explain")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == sorted(RULES)


@pytest.mark.parametrize("identifier", sorted(RULES))
def test_every_id_is_explained(identifier: str) -> None:
    code, out, _ = leakaudit("explain", identifier.lower())
    words = " ".join(out.split())
    assert code == 0
    assert RULES[identifier].title in words
    assert RULES[identifier].summary in words
    assert f"What to do: {' '.join(RULES[identifier].remedy.split())}" in words


def test_an_unknown_id_is_a_usage_error() -> None:
    code, out, err = leakaudit("explain", "LA299")
    assert code == 2
    assert out == ""
    assert err.startswith("Error: no finding 'LA299'")
