"""What evidence becomes which finding, with which severity and confidence."""

from __future__ import annotations

import pytest

from leakaudit.findings import judge
from leakaudit.policy.read import Policy, Threshold
from tests.findings.build import CONTROLS, NOISE, control, entry, evidence, sample


def ids(*args: object, **kwargs: object) -> list[str]:
    return [f.id for f in judge(evidence(*args, **kwargs))]  # type: ignore[arg-type]


def test_a_leak_is_critical_when_close_and_high_otherwise() -> None:
    (near,) = [f for f in judge(evidence([entry(sample(True))])) if f.id == "LA201"]
    (far,) = [f for f in judge(evidence([entry(sample(True, psnr=18.0, ssim=0.4))])) if f.id == "LA201"]
    (exact,) = [f for f in judge(evidence([entry(sample(True, psnr=None))])) if f.id == "LA201"]
    assert (near.severity, far.severity, exact.severity) == ("critical", "high", "critical")
    assert "exact" in exact.message


def test_algebra_and_search_are_separate_findings() -> None:
    closed = entry(sample(True), family="closed form", certified=True)
    findings = {f.id: f for f in judge(evidence([closed, entry(sample(True))], controls=CONTROLS))}
    assert findings["LA202"].confidence == "certified"
    assert findings["LA201"].confidence == "measured"


@pytest.mark.parametrize("missing", ["negative", "prior_only"])
def test_without_its_controls_a_claim_is_an_estimate_unless_certified(missing: str) -> None:
    some = [c for c in CONTROLS if c.kind != missing] + [control(missing, None)]
    for certified, confidence in ((None, "estimated"), (True, "certified")):
        findings = {f.id: f for f in judge(evidence([entry(sample(True), certified=certified)], controls=some))}
        assert findings["LA201"].confidence == confidence
        assert ("LA957" in findings) == (certified is None)


def test_what_did_not_leak_is_no_finding_and_a_yardstick_never_is() -> None:
    assert "LA201" not in ids([entry(sample(False))])
    assert "LA201" not in ids([entry(sample(True), upper_bound=True)])


def test_an_attack_is_reported_under_its_own_family() -> None:
    assert ids([entry(sample(True), finding="LA206")], controls=CONTROLS, defences=[NOISE]) == [
        "LA206",
        "LA502",
        "LA301",
    ]


def test_labels_and_architecture_by_evidence() -> None:
    assert "LA301" not in ids([entry(sample(False), correct=0)])
    assert "LA101" not in ids([], risk="medium")
    assert "LA940" not in ids([], fidelity=("LA940",))  # a check that passed


@pytest.mark.parametrize(("level", "count"), [("never", 0), ("critical", 1), ("high", 1), ("medium", 2), ("low", 3)])
def test_fail_on(level: Threshold, count: int) -> None:
    found = judge(evidence([entry(sample(True))], controls=CONTROLS))  # LA201 critical, LA301 medium, LA403 low
    assert sum(map(Policy(fail_on=level).reaches, found)) == count
