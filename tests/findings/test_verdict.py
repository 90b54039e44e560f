"""Status words, the interval, and that no verdict says safe."""

from __future__ import annotations

import pytest

from leakaudit.document.schema import AccountingEntry, AttackEntry, DefenceEntry, Verdict
from leakaudit.document.status import Cause, Cut, Lost
from leakaudit.findings import judge
from leakaudit.findings.verdict import NO_UPPER_BOUND, conclude
from tests.findings.build import CONTROLS, NOISE, control, entry, evidence, sample, victim


def verdict(attacks: list[AttackEntry], **more: object) -> Verdict:
    found = evidence(attacks, **more)  # type: ignore[arg-type]
    return conclude(found, judge(found), "quick")


def bounded(reconstruction: float) -> DefenceEntry:
    """A defence under which a sample is reconstructed with at most this probability."""
    accounting = AccountingEntry(
        epsilon=1.0, delta=1e-5, noise_multiplier=1.0, rate=1.0, steps=1, prior=0.01, reconstruction=reconstruction,
        reconstruction_one_step=reconstruction,
    )  # fmt: skip
    return NOISE.model_copy(update={"accounting": accounting})


def refused(status: str, reason: str, name: str = "ig", cut: Cut | None = None) -> AttackEntry:
    return entry(results=[], status=status, reason=reason, name=name, cut=cut)


BROKEN = [control("positive", False)]
SCENARIOS: list[tuple[list[AttackEntry], dict[str, object], str]] = [
    ([entry(sample(True), certified=True)], {}, "LEAKS (certified)"),
    ([entry(sample(True))], {"controls": CONTROLS}, "LEAKS (measured)"),
    ([entry(sample(True))], {"controls": BROKEN}, "LEAKS (measured)"),
    ([entry(sample(False))], {"controls": CONTROLS}, "NOT SHOWN (budget)"),
    ([entry(sample(False))], {}, "INCONCLUSIVE"),
    ([entry(sample(False))], {"controls": BROKEN}, "INCONCLUSIVE"),
    ([entry(sample(False))], {"defences": [bounded(0.03)]}, "BOUNDED"),
    ([entry(sample(False))], {"controls": CONTROLS, "defences": [bounded(0.99)]}, "NOT SHOWN (budget)"),
    ([entry(sample(False))], {"controls": CONTROLS, "defences": [NOISE]}, "NOT SHOWN (budget)"),
    ([entry(sample(True))], {"defences": [bounded(0.03)]}, "LEAKS (measured)"),
    ([entry(sample(True), upper_bound=True)], {}, "INCONCLUSIVE"),
    ([refused("not_applicable", "no ReLU")], {}, "NOT APPLICABLE (no ReLU)"),
    ([refused("not_applicable", "a"), refused("not_applicable", "b")], {}, "NOT APPLICABLE (no attack applies;"),
    ([refused("not_run", "needs threat model B")], {}, "NOT APPLICABLE (the threat model allows none"),
    ([refused("not_run", "any words", cut=Cut(Lost.VICTIMS, Cause.BUDGET, 0, 1))], {}, "INCONCLUSIVE"),
    ([refused("not_run", "any words", cut=Cut(Lost.VICTIMS, Cause.MEMORY, 0, 1))], {}, "INCONCLUSIVE"),
    ([refused("not_run", "time budget spent: 0 of 1")], {}, "NOT APPLICABLE (the threat model allows none"),
    ([], {}, "INCONCLUSIVE"),
]


@pytest.mark.parametrize(("attacks", "more", "status"), SCENARIOS)
def test_status_words_and_never_safe(attacks: list[AttackEntry], more: dict[str, object], status: str) -> None:
    found = verdict(attacks, **more)  # type: ignore[arg-type]
    assert found.status.startswith(status)
    accounted = any(d.accounting for d in more.get("defences", ()))  # type: ignore[attr-defined]
    assert (found.at_most == NO_UPPER_BOUND) != accounted
    assert "safe" not in (found.status + found.headline + found.at_least).lower()
    assert found.inconclusive == status.startswith(("INCONCLUSIVE", "NOT APPLICABLE"))


def test_an_interval_from_five_samples_on() -> None:
    few = verdict([entry(sample(True))])
    assert (few.samples_leaked, few.samples_attacked, few.interval) == (1, 1, None)
    assert "at least 5" in few.interval_reason
    many = [victim(sample(n < 3).model_copy(update={"index": n}), victim=n) for n in range(10)]
    found = verdict([entry(results=many)])
    assert (found.samples_leaked, found.samples_attacked) == (3, 10)
    assert found.interval == pytest.approx([0.0667395, 0.6524529], abs=1e-6)  # Clopper and Pearson 1934, 3 of 10
    assert "7% to 65%" in found.at_least


@pytest.mark.parametrize("name", ["LA900", "LA901", "LA916", "LA933"])
def test_a_network_that_is_not_the_clients_is_said_first_and_lowers_the_confidence(name: str) -> None:
    def concluded(*fidelity: str) -> Verdict:
        found = evidence([entry(results=[victim(sample(True), certified=True)])], controls=CONTROLS, fidelity=fidelity)
        return conclude(found, judge(found), "quick")

    verdict = concluded(name)
    assert verdict.assumed[0].startswith("The audited network may not be the client's: a note")
    assert verdict.confidence == "estimated"
    assert concluded("LA902").confidence != "estimated"
    assert "client's:" not in concluded("LA902").assumed[0]


def test_of_equally_severe_findings_the_best_known_decides_the_confidence() -> None:
    first = judge(evidence([entry(sample(True))]))[0]
    given = [first.model_copy(update={"confidence": known}) for known in ("measured", "certified", "estimated")]
    assert conclude(evidence([entry(sample(True))]), given, "quick").confidence == "certified"


def test_the_attacker_is_described_without_another_letter() -> None:
    for letter in "CDE":
        (told,) = [
            text
            for text in verdict([entry(sample(True), threat_model=letter)]).assumed
            if text.startswith(f"Threat model {letter}")
        ]
        assert "as B" not in told
        assert "as C" not in told
        assert "has the shared update, the model (architecture" in told
