"""Redaction by declaration: every field is declared, and what is not public is nowhere in a redacted report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel

from leakaudit.document.disclosure import Disclosure, Public, declarations, disclosure_of
from leakaudit.document.redact import Level, empty, redact
from leakaudit.document.schema import Report
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.formats.markdown import render_markdown
from leakaudit.report.formats.pdf import render_pdf
from leakaudit.report.formats.sarif import render_sarif
from tests.report.builder import build
from tests.report.fill import filled
from tests.report.printing import needs_pdf

LEVELS: tuple[Level, ...] = ("blurred", "none")


def models(kind: Any = Report) -> Iterator[type[BaseModel]]:
    """Every model that a report can hold."""
    seen: set[type[BaseModel]] = set()
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        waiting += get_args(one)
        if isinstance(one, type) and issubclass(one, BaseModel) and one not in seen:
            seen.add(one)
            waiting += [field.annotation for field in one.model_fields.values()]
    yield from seen


def test_every_field_is_declared_once() -> None:
    found = list(models())
    assert len(found) > 25
    undeclared = [
        f"{model.__name__}.{name}"
        for model in found
        for name, field in model.model_fields.items()
        if len(declarations(field)) != 1
    ]
    assert undeclared == []


def test_every_private_field_has_an_empty_value() -> None:
    hidden = [(f, empty(f)) for m in models() for f in m.model_fields.values() if disclosure_of(f).kind == "private"]
    assert len(hidden) > 10
    assert all(not value for _, value in hidden)


def test_a_new_field_is_hidden_until_somebody_declares_it() -> None:
    class Newer(Report):
        remark: str
        names: list[str]
        twice: Annotated[Public[str], Disclosure("private")] = ""
        shown: Public[str]

    values = dict(build(victims=1, runs=1))
    newer = Newer(**values, remark="secret", names=["secret"], twice="secret", shown="harmless")
    for level in LEVELS:
        redacted = redact(newer, level)
        assert "secret" not in redacted.to_json()
        assert "harmless" in redacted.to_json()


@pytest.mark.parametrize("level", LEVELS)
def test_no_private_field_is_in_any_view(level: Level) -> None:
    """Of a document whose every field is unique, at every depth: variants, comparisons, controls, settings."""
    full = filled()
    assert {"TokenResult.words", "SampleResult.label", "LabelResult.soft", "BatchSection.class_names"} <= set(
        full.private
    )
    whole = full.report.to_json()
    canaries = {text for texts in full.private.values() for text in texts}
    assert len(canaries) > 50
    assert all(text in whole for text in canaries), "the test would not see them"
    redacted = redact(full.report, level)
    document = redacted.to_json()
    views = [document, render_html(redacted), render_sarif(redacted), render_junit(redacted)]
    views += [render_markdown(redacted), render_csv(redacted)]
    for view in views:
        assert not [text for text in canaries if text in view or (text.isdigit() and f"{int(text):,}" in view)]
    parsed = json.loads(document)
    parsed.pop("self_sha256")
    assert Report.model_validate(parsed) == redacted, "still a report of this schema"


@needs_pdf
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # WeasyPrint leaves its profile open
def test_no_private_field_is_in_the_pdf_or_attached_to_it() -> None:
    pypdf = pytest.importorskip("pypdf")
    full = filled()
    canaries = {text for texts in full.private.values() for text in texts}

    def texts(report: Report) -> str:
        reader = pypdf.PdfReader(io.BytesIO(render_pdf(report, variant="pdf/a-3u")))
        attached = "".join(content.decode() for item in reader.attachments.values() for content in item)
        return attached + "".join(page.extract_text() for page in reader.pages)

    shown, hidden = texts(full.report), texts(redact(full.report, "none"))
    assert all(text in shown for text in canaries), "the test would not see them"
    assert not [text for text in canaries if text in hidden]


def test_a_report_that_an_earlier_version_redacted_at_the_first_level_only_is_redacted_again() -> None:
    full = filled()
    claimed = full.report.model_copy(update={"evidence": "none"})
    text = redact(claimed, "full").to_json()
    assert not [canary for texts in full.private.values() for canary in texts if canary in text]


def test_counts_of_labels_stay_where_the_labels_go() -> None:
    report = build(victims=2, runs=1, batch=2)
    redacted = redact(report, "none")
    for before, after in zip(report.attacks[0].results, redacted.attacks[0].results, strict=True):
        assert (after.labels.count, after.labels.correct) == (len(before.labels.true), before.labels.correct)
        assert (after.labels.true, after.labels.inferred) == ([], [])
    page = render_html(redacted)
    right = sum(result.labels.correct for result in report.attacks[0].results)
    assert f"{right} of 4" in page
    assert not any(name in page for name in ("astronaut", "coffee", "rocket"))
