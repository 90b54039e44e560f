"""The first page as data: what leaked, how likely, what to do first, what was not tested, and the hashes of it all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leakaudit.document.schema import AccountingEntry, DefenceEntry, RecommendationEntry, Report, VariantEntry
from leakaudit.document.status import VerdictStatus
from leakaudit.report.domains import card_for
from leakaudit.report.domains.tokens import TokenCard
from leakaudit.report.views.annex import privacy_table
from leakaudit.report.views.scale import GRADES, grade, scale_chart
from leakaudit.report.views.summary import build_summary, report_hash
from leakaudit.report.views.variant_chart import variant_chart
from tests.report.builder import build

BOUND = AccountingEntry(
    epsilon=4.0, delta=1e-5, noise_multiplier=1.0, rate=0.1, steps=1000, prior=0.01, reconstruction=0.3,
    reconstruction_one_step=0.09,
)  # fmt: skip
NOISE = DefenceEntry(name="clip", title="DP-SGD", text="clip=1,noise=1", evaluated=True, accounting=BOUND)


def summary(report: Report) -> Any:
    return build_summary(report, card_for(report))


def test_every_class_that_leaked_is_shown_once_at_its_clearest() -> None:
    report = build(victims=3, runs=2)
    leaked = [s for a in report.attacks for r in a.results for s in r.samples if s.leaked]
    shown = summary(report).samples
    assert len(shown) == len({s.label for s in leaked}) > 1
    assert all(sample.leaked for sample in shown)
    best = max(leaked, key=lambda s: s.margin or 0.0)
    assert shown[0].title == f"Sample {best.index}"
    assert f"the closest is sample {best.index}" in summary(report).caption


def test_without_a_leak_the_closest_attempt_is_shown_and_called_so() -> None:
    report = build(victims=2, runs=1)
    for sample in (s for a in report.attacks for r in a.results for s in r.samples):
        sample.leaked = False
    found = summary(report)
    assert len(found.samples) == 1
    assert "not counted as a leak" in found.caption


def test_a_training_is_bounded_only_where_an_accountant_knows() -> None:
    one, training = summary(build(victims=1, runs=1)).likely
    assert (training.term, training.text) == ("From a whole training", "Not bounded")
    one, training = summary(build(victims=1, runs=1, defences=[NOISE])).likely
    assert "at most 0.09 by the accounted noise" in one.remark
    assert training.text == "At most 0.3"
    assert "after 1,000 steps" in training.remark


def test_what_to_do_first_is_what_was_measured_then_what_is_recommended() -> None:
    item = RecommendationEntry(title="Clip", effect="Less leaks", status="computed", try_it="leakaudit defend …")
    plain, advised = build(victims=1, runs=1), build(victims=1, runs=1, recommendations=[item])
    measured = build(victims=1, runs=1, recommendations=[item], recommendation="bits=2 is enough.")
    assert summary(plain).first.title == plain.findings[0].title
    assert (summary(advised).first.title, summary(advised).first.command) == ("Clip", "leakaudit defend …")
    assert summary(measured).first.why == "bits=2 is enough."
    assert summary(build(victims=1, runs=1, findings=[])).first.title == "Keep the audit running"


def test_what_was_not_tested_names_what_waits() -> None:
    told = " ".join(summary(build(victims=1, runs=1, partial="interrupted")).untested)
    for text in ("ended early: interrupted", "did not run: R-GAP", "F to H", "The other 47 samples", "Later weights"):
        assert text in told


def test_the_hash_on_the_cover_is_that_of_the_document() -> None:
    report = build(victims=1, runs=1)
    assert report_hash(report) == json.loads(report.to_json())["self_sha256"]
    assert [fact.text for fact in summary(report).identity] == ["3f" * 32, "a9" * 32, report_hash(report)]


@pytest.mark.parametrize(
    ("psnr", "word"),
    [(5.0, "unrecognisable"), (12.0, "blurred"), (25.0, "recognisable"), (66.0, "identical to the eye")],
)
def test_decibels_have_words(psnr: float, word: str) -> None:
    assert grade(psnr) == word
    assert GRADES[-1][0] == float("inf")


def test_the_scale_has_the_closest_reconstruction_of_each_sample_and_the_best_guess() -> None:
    report = build(victims=2, runs=2)
    samples = [s for a in report.attacks for r in a.results for s in r.samples]
    figure = scale_chart(samples)
    assert figure is not None
    for index in {s.index for s in samples}:
        best = max(s.psnr or 0.0 for s in samples if s.index == index)
        assert f"sample {index}: {best:.1f} dB, {grade(best)}" in figure.svg
    assert "best guess without the update" in figure.svg
    assert scale_chart([]) is None


def test_a_bag_of_words_is_never_called_reconstructed() -> None:
    named = build(victims=1, runs=1).attacks[0].results[0].samples[0].model_copy(update={"found": [3, 5]})
    ordered = named.model_copy(update={"reading": [3, 5], "index": 9})
    told = TokenCard.headline([named], 4)
    assert told == "The words of 1 of 4 private texts can be read from one update, without their order"
    assert TokenCard.headline([named, ordered], 4) == "2 of 4 private texts can be read from one update"
    assert TokenCard.manner([named]) == "read as sets of words"


def test_a_claim_of_privacy_is_told_in_the_terms_of_nist() -> None:
    (row,) = privacy_table(build(victims=1, runs=1, defences=[NOISE])).rows
    cells = [cell.text for cell in row.cells]
    assert cells[0] == "clip=1,noise=1"
    assert cells[1] == "one sample"
    assert "ε = 4 at δ = 1e-05 over 1000 steps" in cells[3]
    assert cells[4] == "none found"
    assert privacy_table(build(victims=1, runs=1)).rows == []


def test_variants_are_a_line_with_the_leaks_marked() -> None:
    attacks = [build(victims=1, runs=n).attacks for n in (1, 2)]
    entries = [
        VariantEntry(
            label=label, status="LEAKS (measured)", code=VerdictStatus.LEAKS_MEASURED, headline="leaks", mode="eval",
            samples_leaked=leaked, samples_attacked=4, attacks=ran,
        )
        for label, leaked, ran in (("early", 4, attacks[0]), ("late", 0, attacks[1]))
    ]  # fmt: skip
    figure = variant_chart(build(victims=1, runs=1, variants=entries))
    assert figure is not None
    assert "early: " in figure.svg
    assert "4 of 4 leaked" in figure.svg
    assert variant_chart(build(victims=1, runs=1, variants=entries[:1])) is None
