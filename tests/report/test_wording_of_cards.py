"""What cards, tiles and tables say: yardsticks count nowhere, equal rows stand once, numbers have words."""

from __future__ import annotations

import pytest

from leakaudit.document.schema import ControlEntry, DefenceTrial, Report
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.formats.html import render_html
from leakaudit.report.views.annex import build_annex
from leakaudit.report.views.facts import tiles
from leakaudit.report.views.figures import psnr_chart
from leakaudit.report.views.samples import YARDSTICK, gallery
from leakaudit.report.views.summary import build_summary
from leakaudit.report.views.tables import control_table, knowledge_table, label_table, score_table
from leakaudit.report.views.view import build_view
from leakaudit.report.wording import scientific
from tests.report.builder import build


def with_yardstick() -> Report:
    """Two victims under two attacks, of which the second alone recovers anything and is a yardstick."""
    report = build(victims=2, runs=2)
    first, second = (attack for attack in report.attacks if attack.results)
    second.upper_bound, second.title = True, "WIA (well-informed: the masks are given)"
    for result in first.results:
        for sample in result.samples:
            sample.leaked, sample.margin, sample.psnr = False, -3.0, 9.0
    for result in second.results:
        for sample in result.samples:
            sample.leaked, sample.margin, sample.psnr = True, 44.0, 60.0
    return report


def test_a_yardstick_is_counted_on_no_tile_and_called_one() -> None:
    report = with_yardstick()
    leaked, best, _, _ = tiles(report)
    assert leaked.text == "0 of 2"
    assert best.text == "−3.0 dB", "the best that an attacker could do"
    shown = gallery(card_for(report), next(a for a in report.attacks if a.upper_bound))
    assert YARDSTICK in shown.summary
    assert {sample.result for sample in shown.samples} == {"yardstick"}
    results = [row.cells[3].text for row in score_table(report).rows]
    assert results.count("yardstick") == 2
    assert "leaked" not in results


def test_labels_of_a_batch_are_counted_and_equal_rows_stand_once() -> None:
    report = build(victims=1, runs=2)
    for attack in (a for a in report.attacks if a.results):
        labels = attack.results[0].labels
        labels.true, labels.inferred, labels.assumed = [3, 3, 1], [3, 3, 1], False
    (row,) = label_table(report).rows
    assert row.cells[0].text.count(";") == 1, "both attacks"
    assert row.cells[2].text.startswith("1")
    assert "2 × 3" in row.cells[2].text


def test_what_was_assumed_is_not_shown_as_inferred() -> None:
    report = build(victims=1, runs=1)
    labels = next(a for a in report.attacks if a.results).results[0].labels
    labels.assumed, labels.correct = True, labels.count
    (row,) = label_table(report).rows
    assert row.cells[3].text == "–"
    assert row.cells[4].mark == ""
    assert tiles(report)[2].text == "–"


def test_attackers_that_were_given_the_same_have_one_row() -> None:
    report = build(victims=1, runs=2)
    ran = [a for a in report.attacks if a.status is RunStatus.RUN]
    for attack in ran:
        attack.given, attack.threat_model = {"labels": "inferred"}, "B"
    assert len(knowledge_table(report).rows) == 1
    ran[0].given = {"labels": "given"}
    assert len(knowledge_table(report).rows) == 2


def test_a_remark_about_every_victim_is_made_once_and_without_the_notation_of_programs() -> None:
    report = build(victims=4, runs=1)
    attack = next(a for a in report.attacks if a.results)
    for result in attack.results:
        result.notes = ["misfit 2.4e-08"]
    attack.results[3].notes = ["misfit 2.4e-08", "stopped"]
    assert gallery(card_for(report), attack).notes == ["Victims 0 to 3: misfit 2.4×10⁻⁸", "Victim 3: stopped"]


def test_hashes_and_names_are_no_numbers() -> None:
    assert scientific("a1e-05 layer2e-3x 7d1e9f") == "a1e-05 layer2e-3x 7d1e9f"


def test_a_metric_that_no_sample_has_takes_no_column() -> None:
    report = build(victims=1, runs=1)
    for sample in card_for(report).samples():
        sample.lpips, sample.lpips_reason = None, "no weights"
    titles = [title for title, _ in score_table(report).columns]
    assert "LPIPS" not in titles
    assert "SSIM" in titles
    numbers = {"psnr": 12.0}
    report.controls = [ControlEntry(kind="negative", attack="ig", passed=True, detail="", numbers=numbers)]
    assert "SSIM" not in [title for title, _ in control_table(report).columns]


def test_charts_and_the_annex_name_attacks_as_people_do() -> None:
    report = build(victims=1, runs=2)
    ran = [a for a in report.attacks if a.results]
    for attack, title in zip(ran, ("GI-PIP (prior from public samples)", "R-GAP (recursive closed form)"), strict=True):
        attack.title = title
    ran[0].name = "gi_pip_of_the_registry"
    chart = psnr_chart(report.attacks, {})
    assert chart is not None
    assert "· GI-PIP" in chart.svg
    assert "registry" not in chart.svg
    failed = {"kind": "positive", "attack": ran[0].name, "title": "GI-PIP (prior)", "passed": False, "detail": ""}
    report.controls = [ControlEntry(**failed)]
    assert "(GI-PIP (prior))" in build_annex(report).controls


def test_a_comparison_without_a_winner_recommends_none() -> None:
    report = build(victims=1, runs=1)
    report.trials = [DefenceTrial(text="", title="No defence", status=RunStatus.RUN, attacked=1, leaked=0)]
    report.recommendation = "No setting can be recommended: the attacks do not recover what is known to leak."
    first = build_summary(report, card_for(report)).first
    assert first.title.startswith("No defence is recommended")
    report.trials[0].recommended = True
    assert build_summary(report, card_for(report)).first.title == "Recommended by measurement"


def test_findings_of_the_same_name_are_told_once_with_their_number() -> None:
    report = build(victims=1, runs=1)
    note = report.findings[-1].model_copy(update={"severity": "low", "fails": False, "id": "LA950", "title": "Weak"})
    report.findings = [*report.findings, note, note]
    assert "LA950 Weak (2 times)" in build_view(report).minor_told


def test_layers_that_are_numbers_are_called_layers() -> None:
    report = build(victims=1, runs=1)
    report.rank.layers[0].name = "0"
    finding = report.findings[0].model_copy(update={"evidence": {"deficient_layers": ["2"]}})
    report.findings = [finding]
    view = build_view(report)
    assert "layer 0" in view.ranks[0].svg
    assert view.findings[0][1] == [("deficient layers", "layer 2")]


@pytest.mark.parametrize("layers", [True, False])
def test_a_network_that_could_not_be_analysed_has_no_numbers(layers: bool) -> None:
    report = build(victims=1, runs=1)
    if not layers:
        report.rank.layers, report.rank.score, report.rank.score_reason = [], None, "the model takes token ids"
    page = render_html(report)
    assert ("Deficit at the input" in page) is layers
    assert ("No layer could be analysed: the model takes token ids." in page) is not layers
