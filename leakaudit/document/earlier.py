"""Documents that earlier versions wrote under the same schema version, brought up to what is read today.

Statuses and cuts once stood in sentences alone. This is the one place that reads such sentences, whole ones of known
wording, so that an old document is rendered as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from leakaudit.document.status import Cause, Lost, VerdictStatus

DIGITS = 18
"""Digits of a count that are read; chosen, those of 64 bits: Python refuses to read thousands."""
_NOTES = {
    Lost.PLAN: re.compile(r"time budget: (\d+) of (\d+) iterations planned per restart"),
    Lost.TRAINING: re.compile(r"time budget: the autoencoder was not trained to the end()()"),
}
_STOPS = {
    Lost.ITERATIONS: re.compile(r"stopped after (\d+) of (\d+) iterations"),
    Lost.ROUNDS: re.compile(r"stopped after (\d+) of (\d+) rounds"),
    Lost.RECURSION: re.compile(r"interrupted or out of time()()"),
}


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the keys that its version had in sentences; what is malformed is left to validation."""
    for section in (document.get("verdict"), *_listed(document.get("variants"))):
        if isinstance(section, dict) and "code" not in section:
            section["code"] = _code(section.get("status"))
    for result in _results(document):
        if "cuts" not in result:
            result["cuts"] = [*_cuts(result.get("notes"), _NOTES), *_cuts([result.get("stopped")], _STOPS)]
    return document


def _code(status: Any) -> str:
    """The status without its reason, which stood in brackets where no attack applied."""
    known = {code.value for code in VerdictStatus}
    return status if status in known else str(status).partition(" (")[0]


def _results(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every result of an attack on a victim."""
    ledgers = [document, *(v for v in _listed(document.get("variants")) if isinstance(v, dict))]
    for attack in (a for ledger in ledgers for a in _listed(ledger.get("attacks")) if isinstance(a, dict)):
        beside = attack.get("beside")
        own = [*_listed(attack.get("results")), *_listed(beside.get("results") if isinstance(beside, dict) else None)]
        yield from (result for result in own if isinstance(result, dict))


def _cuts(sentences: Any, known: dict[Lost, re.Pattern[str]]) -> Iterator[dict[str, Any]]:
    """Cuts that sentences tell of; what stopped a run was not told, so the time budget is taken for it."""
    for sentence in _listed(sentences):
        for lost, pattern in known.items():
            if found := pattern.fullmatch(str(sentence)):
                done, planned = (int((number or "0")[:DIGITS]) for number in found.groups())
                yield {"lost": lost.value, "cause": Cause.BUDGET.value, "done": done, "planned": planned}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
