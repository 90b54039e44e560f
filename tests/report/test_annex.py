"""The compliance annex, the policy section and the bounds: complete, from the document, and claiming no more."""

from __future__ import annotations

import datetime

from leakaudit.document.threat_models import scope
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy, Suppression
from leakaudit.report.formats.html import render_html
from leakaudit.report.views.annex import build_annex, configuration_hash
from leakaudit.report.views.bounds_chart import bounds_chart
from leakaudit.report.views.residual import SENTENCE, residual_risk
from tests.report.builder import build


def test_the_scope_names_every_attack_and_every_threat_model() -> None:
    report = build(victims=2)
    rows = [[cell.text for cell in row.cells] for row in build_annex(report).scope.rows]
    assert {row[0]: row[1] for row in rows} == scope()
    for attack in report.attacks:
        (row,) = [row for row in rows if row[0] == attack.threat_model]
        assert attack.title in row[2 if attack.status == "run" else 3]


def test_the_interval_follows_the_samples() -> None:
    report = build(victims=3, runs=1)
    leaked = {s.index for a in report.attacks for r in a.results for s in r.samples if s.leaked}
    told = report.verdict.model_copy(update={"interval": [0.29, 1.0]})
    few = report.verdict.model_copy(update={"interval_reason": "an interval needs at least 5 samples"})
    for verdict, remark in ((told, "95 % interval of the share: 29% to 100%"), (few, "at least 5 samples")):
        changed = report.model_copy(update={"verdict": verdict})
        fact = next(f for f in build_annex(changed).facts if f.term == "Leaked")
        assert fact.text == f"{len(leaked)} of 3 samples"
        assert remark in fact.remark
    assert "interval 29% to 100%" in bounds_chart(report.model_copy(update={"verdict": told})).svg
    assert "interval" not in bounds_chart(report).svg


def test_the_configuration_hash_follows_what_decides_the_numbers() -> None:
    report = build(victims=1, runs=1)
    same = report.model_copy(update={"created": "2030-01-01T00:00:00+00:00", "seconds": 1.0, "command": []})
    assert configuration_hash(report) == configuration_hash(same)
    assert configuration_hash(report) != configuration_hash(report.model_copy(update={"seed": 1}))


def test_residual_risk_says_what_was_not_ruled_out() -> None:
    report = build(victims=1, runs=1)
    text = " ".join(residual_risk(report.model_copy(update={"partial": "interrupted by the user"})))
    for attack in (a for a in report.attacks if a.status != "run"):
        assert attack.title in text
    assert SENTENCE in text
    assert "interrupted by the user" in text
    assert "compliant" not in text


def test_the_page_holds_the_annex_and_the_policy() -> None:
    gone = Suppression(rule="LA301", reason="for the pilot", expires=datetime.date(2020, 1, 1))
    report = apply_policy(build(victims=1), Policy(suppressions=(gone,)))
    page = render_html(report)
    for text in (
        "NIST AI 100-2", "AML.T0024.001 (closest, not exact)", "ML03:2023", "GDPR Art. 35", "Art. 15(5)",
        "TechDispatch 1/2025", SENTENCE, "Sign-off", "expired: counts again", "for the pilot", "fails the policy",
    ):  # fmt: skip
        assert text in page, text
    assert 'id="policy"' not in render_html(build(victims=1))


def test_no_upper_bound_is_drawn_as_such() -> None:
    figure = bounds_chart(build(victims=2))
    assert "no upper bound" in figure.svg
    assert "At least: " in figure.svg
    nothing = bounds_chart(build(victims=1, attacks=[]))
    assert "nothing was attacked" in nothing.svg
