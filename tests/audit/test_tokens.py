"""A text model audited end to end: what was read, what does not apply and why, and what the report shows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import leakaudit
from leakaudit.api import defend
from leakaudit.attacks.registry import available
from leakaudit.document.redact import redact
from leakaudit.document.schema import DefenceTrial, Report, VictimResult
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.views.trials import trial_table
from tests.cli.build import leakaudit as command
from tests.texts import LENGTH, VOCABULARY, TextClassifier, export_text, random_ids, write_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_text(TextClassifier(), tmp_path_factory.mktemp("model") / "text.onnx")


@pytest.fixture(scope="module")
def report(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Three texts, one per update, by the command line."""
    folder = tmp_path_factory.mktemp("audit")
    words = np.array([f"<word {i}>" for i in range(VOCABULARY)])
    batch = write_texts(folder / "b.npz", vocabulary=words)
    code, out, err = command(
        "scan",
        model,
        "--batch",
        batch,
        "--victims",
        3,
        "--out",
        folder / "out",
        "--format",
        "json",
        "--evidence",
        "full",
    )
    assert (code, err.count("Error")) == (1, 0), err
    assert "LEAKS" in out
    return Report.load(folder / "out" / "report.json")


def results(report: Report, attack: str) -> list[VictimResult]:
    return next(a.results for a in report.attacks if a.name == attack)


def test_every_sequence_is_read_and_certified(report: Report) -> None:
    for result in results(report, "dager"):
        (sample,) = result.samples
        assert sample.tokens is not None
        assert sample.tokens.recovered == sample.tokens.original
        assert (sample.tokens.accuracy, sample.tokens.precision, sample.tokens.recall) == (1.0, 1.0, 1.0)
        assert sample.leaked
        assert result.certified
        assert sample.tokens.words[sample.tokens.original[0]] == f"<word {sample.tokens.original[0]}>"


def test_the_token_set_is_read_without_an_order(report: Report) -> None:
    for result in results(report, "embedding"):
        (sample,) = result.samples
        assert sample.tokens is not None
        assert sample.tokens.found == sorted(set(sample.tokens.original))
        assert sample.tokens.recovered == [None] * LENGTH
        assert sample.tokens.accuracy is None
        assert (result.residual, result.certified) == (None, None)
        assert "not every token's place" in result.residual_reason
        assert sample.psnr_reason == "token ids, not an image"


def test_attacks_on_pixels_do_not_apply(report: Report) -> None:
    reasons = {a.name: a.reason for a in report.attacks if a.status == "not_applicable"}
    images = {name for name, attack in available().items() if "tokens" not in attack.reads and attack.by_default}
    assert set(reasons) == images
    assert all("takes token ids" in reason for reason in reasons.values())


def test_sections_of_the_report(report: Report) -> None:
    assert report.target.vocabulary == VOCABULARY
    assert report.target.layout == "tokens"
    assert report.rank.level == "counts unavailable"
    assert "token ids" in report.rank.score_reason
    assert report.batch.mean == report.batch.std == []
    (finding,) = [f for f in report.findings if f.id == "LA207"]
    assert (finding.severity, finding.confidence) == ("critical", "certified")
    assert "100% of its places right" in finding.message


def test_html_shows_tokens_marked(report: Report) -> None:
    page = render_html(report)
    first = results(report, "dager")[0].samples[0].tokens
    assert first is not None
    assert f"&lt;word {first.original[0]}&gt;" in page
    assert "<word" not in page
    assert page.count('<li class="right">') >= 3 * 2 * LENGTH
    assert "Places right" in page
    assert f"{LENGTH} token ids of {VOCABULARY}" in page
    assert "PSNR was not computed" not in page


def test_redaction_leaves_no_token(report: Report) -> None:
    sample = results(report, "dager")[0].samples[0]
    for level in ("blurred", "none"):
        hidden = redact(report, level)  # type: ignore[arg-type]
        page = render_html(hidden)
        text = hidden.to_json()
        assert "word " not in text
        assert "left out of this report" in page
        kept = results(hidden, "dager")[0].samples[0].tokens
        assert kept is not None
        assert sample.tokens is not None
        assert (kept.original, kept.recovered, kept.found) == ([], [], [])
        assert kept.accuracy == sample.tokens.accuracy
    assert all("(" not in note for r in results(report, "embedding") for note in r.notes)  # no ids in notes


def test_scores_as_csv(report: Report) -> None:
    rows = list(csv.DictReader(render_csv(report).splitlines()))
    assert {row["accuracy"] for row in rows if row["attack"] == "dager"} == {"1.0"}
    assert {row["recall"] for row in rows} == {"1.0"}
    assert not {name for name in rows[0] if name.startswith("token_") or "psnr" in name}
    assert {"chance_recall", "frequent_accuracy", "other_precision"} <= set(rows[0])


def test_batches_give_their_token_set(model: Path) -> None:
    report = leakaudit.scan(model, (random_ids(12), np.arange(12) % 4), batch_size=3, victims=2)
    for attack in ("embedding", "dager"):
        for result in results(report, attack):
            named = {token for sample in result.samples if sample.tokens for token in sample.tokens.original}
            for sample in result.samples:
                assert sample.tokens is not None
                assert sample.tokens.found == sorted(named)
                assert sample.tokens.accuracy is None
    (finding,) = [f for f in report.findings if f.id == "LA207"]
    assert finding.severity == "high"
    assert "without their order" in finding.message


def test_errors_are_one_line(model: Path, tmp_path: Path) -> None:
    floats = write_texts(tmp_path / "f.npz", inputs=random_ids(24).astype(np.float32))
    code, _, err = command("scan", model, "--batch", floats, "--out", tmp_path / "o")
    assert (code, sum(line.startswith("Error:") for line in err.splitlines())) == (3, 1)
    assert "token ids, which are integers" in err
    code, _, err = command("scan", model, "--batch", floats, "--mean", "0.5", "--out", tmp_path / "o")
    assert code == 2
    assert "--mean is for images" in err
    assert not (tmp_path / "o").exists()


def test_inspect_and_rank(model: Path) -> None:
    code, out, _ = command("inspect", model)
    assert code == 0
    assert f"{LENGTH} token ids of {VOCABULARY}, rows of table.weight" in out
    assert "dager: applies" in out
    code, out, _ = command("inspect", model, "--format", "json")
    assert json.loads(out)["tokens"]["vocabulary"] == VOCABULARY
    code, out, _ = command("rank", model)
    assert code == 0
    assert "counts unavailable" in out


@pytest.mark.parametrize("shape", ["8", "1,1,8"])
def test_input_shape_may_be_a_number_of_tokens(model: Path, shape: str) -> None:
    code, out, _ = command("inspect", model, "--input-shape", shape)
    assert code == 0
    assert "8 token ids" in out


def test_defend_says_what_was_read_under_each_setting(tmp_path: Path) -> None:
    report = defend(
        TextClassifier(), (random_ids(12), np.arange(12) % 4), goal="accuracy<0.5", grid=["clip=1,noise=3"],
        victims=1, attacks=["dager"], steps=2, input_shape=(1, 1, LENGTH),
    )  # fmt: skip
    bare, noisy = report.trials
    assert (bare.told, bare.psnr) == ("100% of its places right", None)
    assert bare.metrics["accuracy"] == 1.0
    assert not bare.meets
    assert noisy.told != bare.told
    cells = [row.cells[1].text for row in trial_table(report).rows]
    assert cells == [bare.told, noisy.told]
    assert "Best reading" in render_html(report)


def test_a_setting_under_which_nothing_was_attacked_is_not_called_exact(report: Report) -> None:
    trial = DefenceTrial(text="prune=0.9", title="Pruning", status="run", attacked=0)
    for kind in ("tokens", "images", "waves"):
        target = report.target.model_copy(update={"domain": kind})
        shown = report.model_copy(update={"trials": [trial], "target": target})
        assert trial_table(shown).rows[0].cells[1].text == "–"


def test_a_goal_on_pixels_is_refused_for_texts(model: Path, tmp_path: Path) -> None:
    batch = write_texts(tmp_path / "b.npz")
    code, _, err = command("defend", model, "--batch", batch, "--target", "PSNR<15", "--out", tmp_path / "o")
    assert code == 2
    assert "measured by accuracy, recall, precision, skill" in err
    assert not (tmp_path / "o").exists()


def test_progress_lines_and_tables_are_of_texts(report: Report) -> None:
    page = render_html(report)
    assert "PSNR dB" not in page
    assert [spec.name for spec in report.metrics] == ["accuracy", "recall", "precision", "skill"]
    control = next(c for c in report.controls if c.attack == "dager")
    assert set(control.numbers) >= {"accuracy", "recall", "precision", "skill"}
    assert "best places right 100%" in render_junit(report)
