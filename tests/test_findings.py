"""What evidence becomes which finding, and what the verdict says of it."""

from __future__ import annotations

import pytest

from leakaudit.findings import RULES, Evidence, at_or_above, judge
from leakaudit.report.document import (
    AttackEntry,
    FidelityEntry,
    LabelResult,
    ProtocolSection,
    RankSection,
    SampleResult,
    TargetSection,
    VictimResult,
)
from leakaudit.verdict import NO_UPPER_BOUND, conclude


def sample(leaked: bool, psnr: float | None = 30.0, ssim: float = 0.9) -> SampleResult:
    return SampleResult(index=0, label=1, inferred_label=1, psnr=psnr, ssim=ssim, margin=15.0, leaked=leaked)


def entry(*samples: SampleResult, correct: int = 1, certified: bool | None = None, **more: object) -> AttackEntry:
    labels = LabelResult(true=[1], inferred=[1 if correct else 0], correct=correct)
    result = VictimResult(
        victim=0, seed=0, residual=0.1, seconds=1.0, labels=labels, samples=list(samples), certified=certified
    )
    return AttackEntry(name="ig", title="IG", status="run", threat_model="B", results=[result], **more)  # type: ignore[arg-type]


def evidence(attacks: list[AttackEntry], risk: str = "low", batch_size: int = 2, classes: int = 10) -> Evidence:
    target = TargetSection(
        name="m", path=None, sha256=None, format="module", classes=classes, input_shape=[3, 8, 8], parameters=1,
        trainable_tensors=1,
        fidelity=[FidelityEntry(id="LA940", message="agrees"), FidelityEntry(id="LA901", message="BatchNorm folded")],
    )  # fmt: skip
    rank = RankSection(risk=risk, score=None, layers=[])  # type: ignore[arg-type]
    return Evidence(target, ProtocolSection(batch_size=batch_size), rank, attacks)


def ids(*args: object, **kwargs: object) -> list[str]:
    return [f.id for f in judge(evidence(*args, **kwargs))]  # type: ignore[arg-type]


def test_every_rule_has_a_page() -> None:
    for identifier, (title, function) in RULES.items():
        assert identifier.startswith("LA")
        assert title
        assert function.__doc__


def test_a_leak_is_critical_when_close_and_high_otherwise() -> None:
    (near,) = [f for f in judge(evidence([entry(sample(True))])) if f.id == "LA201"]
    (far,) = [f for f in judge(evidence([entry(sample(True, psnr=18.0, ssim=0.4))])) if f.id == "LA201"]
    (exact,) = [f for f in judge(evidence([entry(sample(True, psnr=None))])) if f.id == "LA201"]
    assert (near.severity, far.severity, exact.severity) == ("critical", "high", "critical")
    assert "exact" in exact.message


def test_algebra_and_search_are_separate_findings() -> None:
    closed = entry(sample(True), family="closed form", certified=True)
    findings = {f.id: f for f in judge(evidence([closed, entry(sample(True))]))}
    assert findings["LA202"].confidence == "certified"
    assert findings["LA201"].confidence == "measured"


def test_what_did_not_leak_is_no_finding_and_a_yardstick_never_is() -> None:
    assert "LA201" not in ids([entry(sample(False))])
    assert "LA201" not in ids([entry(sample(True), upper_bound=True)])


def test_labels_architecture_protocol_and_fidelity() -> None:
    assert "LA301" in ids([entry(sample(False))])
    assert "LA301" not in ids([entry(sample(False), correct=0)])
    assert "LA101" in ids([], risk="high")
    assert "LA101" not in ids([], risk="medium")
    assert "LA401" in ids([], batch_size=1)
    assert "LA901" in ids([])
    assert "LA940" not in ids([])  # a check that passed


@pytest.mark.parametrize(("level", "count"), [("never", 0), ("critical", 1), ("high", 1), ("medium", 2), ("low", 3)])
def test_fail_on(level: str, count: int) -> None:
    assert len(at_or_above(judge(evidence([entry(sample(True))])), level)) == count


@pytest.mark.parametrize(
    ("attacks", "status"),
    [
        ([entry(sample(True), certified=True)], "LEAKS (certified)"),
        ([entry(sample(True))], "LEAKS (measured)"),
        ([entry(sample(False))], "NOT SHOWN (budget)"),
        ([entry(sample(True), upper_bound=True)], "INCONCLUSIVE"),
        ([], "INCONCLUSIVE"),
    ],
)
def test_status_words_and_never_safe(attacks: list[AttackEntry], status: str) -> None:
    verdict = conclude(judge(evidence(attacks)), attacks, ProtocolSection(batch_size=1), "quick")
    assert verdict.status == status
    assert verdict.at_most == NO_UPPER_BOUND
    assert "safe" not in (verdict.status + verdict.headline + verdict.at_least).lower()
