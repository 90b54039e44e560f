"""The policy: what it says, what it refuses, and which findings it fails."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from leakaudit.document.schema import FindingEntry, Report
from leakaudit.errors import UsageError
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.compare import compare_findings, differences, gone
from leakaudit.policy.read import Policy, Suppression, find_policy, read_policy
from leakaudit.scoring.interval import clopper_pearson
from tests.report.builder import build

DAY = datetime.date(2026, 6, 1)


def finding(identifier: str = "LA201", severity: str = "critical", **evidence: Any) -> FindingEntry:
    return FindingEntry.model_validate(
        {
            "id": identifier, "title": "t", "severity": severity, "confidence": "measured", "message": "m",
            "remedy": "r", "evidence": evidence,
        }
    )  # fmt: skip


def judged(findings: list[FindingEntry], policy: Policy, baseline: Report | None = None) -> Report:
    report = build(victims=1, runs=1, findings=findings)
    return apply_policy(report, policy, baseline=baseline, day=DAY)


def fails(report: Report) -> list[str]:
    return [f.id for f in report.findings if f.fails]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_thresholds_hold_per_rule_family_and_overall() -> None:
    findings = [
        finding("LA201", "high"),
        finding("LA301", "medium"),
        finding("LA302", "medium"),
        finding("LA950", "low"),
    ]
    assert fails(judged(findings, Policy())) == ["LA201"]
    assert fails(judged(findings, Policy(fail_on="never"))) == []
    assert fails(judged(findings, Policy(rules={"LA3xx": "medium", "LA302": "never"}))) == ["LA201", "LA301"]
    assert fails(judged(findings, Policy(rules={"LA95x": "low", "LA2xx": "critical"}))) == ["LA950"]
    assert fails(judged([finding("LA101", "none")], Policy(fail_on="low"))) == []


def test_a_suppression_counts_until_its_last_day() -> None:
    def policy(last: datetime.date) -> Policy:
        return Policy(suppressions=(Suppression(rule="LA201", reason="accepted", expires=last),))

    active = judged([finding()], policy(DAY))
    assert fails(active) == []
    assert active.findings[0].suppressed
    assert "accepted" in active.findings[0].gate
    expired = judged([finding()], policy(DAY - datetime.timedelta(days=1)))
    assert fails(expired) == ["LA201"]
    assert not expired.findings[0].suppressed
    assert "ended on 2026-05-31" in expired.findings[0].gate
    unused = judged([finding("LA301", "low")], policy(DAY))
    states = [r.policy.suppressions[0].state for r in (active, expired, unused) if r.policy]
    assert states == ["active", "expired", "unused"]


def test_a_baseline_fails_only_what_got_worse() -> None:
    old = build(victims=1, runs=1, findings=[finding(samples_leaked=2, samples_attacked=8), finding("LA301", "medium")])
    policy = Policy(fail_on="low")
    same = [finding(samples_leaked=4, samples_attacked=8), finding("LA301", "medium")]
    assert fails(judged(same, policy, old)) == [], "4 of 8 lies within the interval of 2 of 8"
    more = judged([finding(samples_leaked=8, samples_attacked=8)], policy, old)
    assert fails(more) == ["LA201"]
    assert more.findings[0].change == "worse"
    assert fails(judged([finding("LA301", "high")], policy, old)) == ["LA301"]
    new = judged([finding("LA203", "high")], policy, old)
    assert (fails(new), new.findings[0].change) == (["LA203"], "new")
    assert fails(judged([finding("LA301", "medium"), finding("LA301", "medium")], policy, old)) == ["LA301"]


def test_what_disappeared_and_what_differs_is_named() -> None:
    old, new = [finding(), finding("LA301")], [finding()]
    assert [c.id for c in gone(old, new)] == ["LA301"]
    assert [c.kind for c in compare_findings(old, new)] == ["same"]
    one = build(victims=1, runs=1)
    assert differences(one, one) == []
    assert differences(one, one.model_copy(update={"preset": "paper"})) == ["preset: standard before, paper now"]


def test_clopper_pearson_agrees_with_its_definition() -> None:
    from scipy.stats import binom

    low, high = clopper_pearson(3, 10)
    assert binom.sf(2, 10, low) == pytest.approx(0.025)
    assert binom.cdf(3, 10, high) == pytest.approx(0.025)
    assert clopper_pearson(0, 5)[0] == 0.0
    assert clopper_pearson(5, 5)[1] == 1.0


def test_a_policy_is_read_from_either_file(tmp_path: Path) -> None:
    body = """fail-on = "low"
victims = 2
[{0}rules]
LA301 = "never"
[[{0}suppress]]
rule = "LA404"
reason = "why"
expires = 2027-03-31
"""
    own = write(tmp_path / "leakaudit.toml", body.format(""))
    shared = write(tmp_path / "pyproject.toml", "[tool.leakaudit]\n" + body.format("tool.leakaudit."))
    for path in (own, shared):
        policy, options = read_policy(path)
        assert policy.fail_on == "low"
        assert policy.rules == {"LA301": "never"}
        assert policy.suppressions[0].expires == datetime.date(2027, 3, 31)
        assert options == {"fail_on": "low", "victims": 2}


def test_the_nearest_policy_of_the_repository_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    write(tmp_path / "leakaudit.toml", "")
    (tmp_path / "repo" / ".git").mkdir()
    assert find_policy(inner) is None, "it belongs to somebody else"
    mine = write(tmp_path / "repo" / "pyproject.toml", "[tool.leakaudit]\n")
    assert find_policy(inner) == mine
    write(tmp_path / "repo" / "a" / "pyproject.toml", "[project]\n")
    assert find_policy(inner) == mine
    nearer = write(tmp_path / "repo" / "a" / "leakaudit.toml", "")
    assert find_policy(inner) == nearer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('fail-on = "often"', "fail-on is 'often', expected one of critical"),
        ("[rules]\nLA301 = 3", "rule LA301 has 3, expected one of"),
        ('[rules]\nlabels = "low"', "has 'labels', expected a rule as LA301"),
        ('[rules]\nLA8xx = "low"', "there is no rule LA8xx"),
        ('[[suppress]]\nrule = "LA301"\nexpires = 2027-01-01', "suppression 1 (LA301) has no reason"),
        ('[[suppress]]\nrule = "LA301"\nreason = " "\nexpires = 2027-01-01', "has no reason"),
        ('[[suppress]]\nrule = "LA301"\nreason = "x"', "has no end"),
        ('[[suppress]]\nrule = "LA301"\nreason = "x"\nexpires = "soon"', "has no end"),
        ('[[suppress]]\nrule = "LA3xx"\nreason = "x"\nexpires = 2027-01-01', "expected one id"),
        ('[[suppress]]\nrule = "LA399"\nreason = "x"\nexpires = 2027-01-01', "there is no rule LA399"),
        ('[[suppress]]\nid = "LA301"', "unknown key 'id'"),
        ("fail-on = ", "is not TOML"),
        ("[rules", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_policy(write(tmp_path / "leakaudit.toml", text))
    assert message in caught.value.message
