"""Documents of other versions: what version 0.1.0 wrote is read and rendered, keys of a later version are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from leakaudit.document.redact import redact
from leakaudit.document.schema import HASH_KEY, Tool, self_hash
from leakaudit.document.status import Lost, VerdictStatus
from leakaudit.errors import UsageError
from leakaudit.report.saving import Report

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.v1.json"))


def within(old: Any, new: Any) -> bool:
    """Whether a newer document says all that an older one does; it may have added keys."""
    if isinstance(old, dict):
        return all(key in new and within(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(within, old, new))
    return bool(old == new)


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) >= 2


@pytest.mark.parametrize("file", GOLDEN, ids=lambda path: path.stem)
def test_a_document_of_version_one_keeps_its_meaning(file: Path, tmp_path: Path) -> None:
    report, document = Report.load(file), json.loads(file.read_text("utf-8"))
    assert document["schema_version"] == 1
    assert report.verdict.status == document["verdict"]["status"]
    assert [f.id for f in report.findings] == [f["id"] for f in document["findings"]]
    written = json.loads(report.to_json())
    for key in ("verdict", "findings", "seed", "preset"):
        assert within(document[key], written[key]), key
    names = {path.name for path in report.save(tmp_path, formats=("json", "html", "sarif", "junit", "markdown", "csv"))}
    assert {"report.json", "report.html"} <= names
    assert redact(report, "none").evidence == "none"


def test_statuses_and_cuts_that_stood_in_sentences_are_fields_when_read(tmp_path: Path) -> None:
    document = json.loads(GOLDEN[0].read_text("utf-8"))
    document["verdict"]["status"] = "NOT APPLICABLE (no ReLU (of all things))"
    first, second = [attack["results"][0] for attack in document["attacks"] if attack["results"]][:2]
    first.update(
        stopped="stopped after 3 of 40 iterations", notes=["time budget: 40 of 600 iterations planned per restart"]
    )
    second.update(stopped="stopped by a person", notes=["time budget: none, stopped after 3 of 40 iterations"])
    (tmp_path / "old.json").write_text(json.dumps(document))
    report = Report.load(tmp_path / "old.json")
    assert report.verdict.code is VerdictStatus.NOT_APPLICABLE
    assert report.verdict.inconclusive
    read = [attack.results[0] for attack in report.attacks if attack.results][:2]
    assert [[(cut.lost, cut.done, cut.planned) for cut in result.cuts] for result in read] == [
        [(Lost.PLAN, 40, 600), (Lost.ITERATIONS, 3, 40)],
        [],
    ]


def test_keys_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    document = json.loads(GOLDEN[0].read_text("utf-8"))
    document["a_key_of_later"] = {"x": 1}
    document["verdict"]["another"] = "y"
    document[HASH_KEY] = self_hash(document)
    (tmp_path / "later.json").write_text(json.dumps(document))
    report = Report.load(tmp_path / "later.json")
    assert report.verdict.headline == document["verdict"]["headline"]
    assert "a_key_of_later" not in report.to_json()


def test_writers_are_strict() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Tool.model_validate({"version": "1", "unknown": 2})


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    document = {**json.loads(GOLDEN[0].read_text("utf-8")), "schema_version": 2}
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="schema 2, expected 1"):
        Report.load(tmp_path / "report.json")
