"""The HTML view: complete, inert under hostile names, and loading nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from leakaudit.audit.results import label_result
from leakaudit.document.schema import Report, Verdict
from leakaudit.document.status import VerdictStatus
from leakaudit.errors import UsageError
from leakaudit.report.domains.images import FLOORS
from leakaudit.report.formats.html import BREAK, _finalize_for_paper, command_line, render_html
from leakaudit.report.views.figures import loss_curves, psnr_chart, rank_profiles
from leakaudit.report.views.view import evidence_rows
from leakaudit.report.wording import MISSING, clip, fixed, number, seconds
from leakaudit.tasks.base import LabelGuess
from leakaudit.tasks.single_label import SingleLabel
from tests.report.builder import build
from tests.report.hostile import hostile
from tests.report.page import Page


@pytest.fixture(scope="module")
def report() -> Report:
    return build(victims=2)


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(render_html(report))


def test_it_shows_every_number_of_the_document(report: Report, page: Page) -> None:
    for attack in report.attacks:
        for result in attack.results:
            assert str(result.seed) in page.text
            assert seconds(result.seconds) in page.text
            assert number(result.residual, 3) in page.text
            for sample in result.samples:
                for scores in (sample, *sample.floors.values()):
                    assert fixed(scores.psnr, 1) in page.text
                    assert fixed(scores.ssim, 3) in page.text
                    assert number(scores.mse, 3) in page.text
                assert fixed(sample.margin, 1) in page.text
    for layer in report.rank.layers:
        counts = layer.constraints
        for value in (layer.unknowns, counts.gradient, counts.weight, counts.virtual, layer.rank, layer.deficit):
            assert number(value) in page.text
    for text in (str(report.seed), *report.versions.values(), report.target.sha256, report.batch.sha256):
        assert text is not None
        assert text in page.text


def test_it_says_every_reason(report: Report, page: Page) -> None:
    for attack in report.attacks:
        assert attack.reason in page.text
    assert "LPIPS weights not available" in page.text
    assert "certificates are not computed yet" in page.text
    assert report.target.fidelity[0].hint in page.text


def test_the_verdict_comes_first_and_every_section_follows(page: Page) -> None:
    order = [a["id"] for tag, a in page.tags if tag == "section" and a.get("id")]
    assert order == [
        "verdict", "findings", "reconstructions", "control-runs", "rank", "scores", "labels", "curves", "details",
        "ledger", "facts", "annex", "reproduce", "glossary",
    ]  # fmt: skip
    links = [value for value in page.values("href") if value.startswith("#")]
    assert set(links) >= {f"#{name}" for name in order}
    assert {value[1:] for value in links} <= set(page.values("id"))


def test_ids_are_unique_and_images_have_text(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    figures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert figures
    for attrs in figures:
        assert attrs["role"] == "img"
        assert set((attrs["aria-labelledby"] or "").split()) <= set(ids)


def test_it_loads_nothing(page: Page) -> None:
    for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
        for value in page.values(name):
            assert value.startswith(("#", "data:image/png;base64,")), value
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"url\((?!#)|@import", "".join(page.raw["style"]))


def test_the_policy_admits_exactly_this_style_and_script(page: Page) -> None:
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256("".join(page.raw[kind]).encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not page.values("style"), "a style attribute would be refused by the policy"
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_hostile_names_are_inert() -> None:
    markup = render_html(hostile())
    page = Page(markup)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "{{7*7}}" in page.text
    assert not re.search("[\x00\x1b\u202e]", markup)
    assert "attacker.example" not in markup
    assert "data:text/html" not in markup
    assert max(len(word) for word in page.text.split()) < 1500
    assert page.text.count("W") < 60_000


def test_an_audit_without_attacks_says_so() -> None:
    verdict = Verdict(
        status="INCONCLUSIVE", code=VerdictStatus.INCONCLUSIVE, severity="none", confidence="estimated",
        headline="No attack ran",
        at_least="Nothing: no attack ran.", at_most="No upper bound.", assumed=[],
    )  # fmt: skip
    text = Page(render_html(build(runs=0, findings=[], verdict=verdict, partial="interrupted after 12 s"))).text
    assert "Partial report." in text
    assert "interrupted after 12 s" in text
    assert "No attack produced a reconstruction" in text
    assert "No rule found anything" in text


def test_every_sample_of_a_batch_is_beside_its_reconstruction() -> None:
    report = build(victims=2, runs=1, batch=3, side=28, channels=1)
    sources = Page(render_html(report)).values("src")
    for result in report.attacks[0].results:
        for position, sample in enumerate(result.samples):
            assert sample.original_png in sources
            assert sample.reconstruction_png in sources
            assert sources.index(result.snapshots[0].images_png[position]) > 0


def test_large_images_are_smoothed_and_small_ones_are_not() -> None:
    for side, expected in ((28, True), (128, False)):
        classes = [
            a["class"] or "" for tag, a in Page(render_html(build(victims=1, runs=1, side=side))).tags if tag == "img"
        ]
        assert all(("pixelated" in name) is expected for name in classes)


def test_figures_are_deterministic_and_describe_themselves() -> None:
    first, second = build(victims=2), build(victims=2)
    for one, two in zip(_figures(first), _figures(second), strict=True):
        assert one == two
    rank = rank_profiles(first)[0].svg
    assert "deficit 280" in rank
    assert "conv2: 3468 unknowns, 3780 equations, deficit 280" in rank
    assert "<style" not in rank


def _figures(report: Report) -> list[str]:
    chart = psnr_chart(report.attacks, FLOORS)
    assert chart is not None
    return [f.svg for f in (*loss_curves(report.attacks), chart, *rank_profiles(report))]


def test_a_deep_network_gets_several_figures() -> None:
    report = build(runs=0)
    report.rank.layers = report.rank.layers[:7] * 10
    figures = rank_profiles(report)
    assert len(figures) == 3
    assert "24 of 70 layers" in figures[0].caption


def test_an_upper_bound_on_a_rank_is_never_called_determined() -> None:
    report = build(victims=1, runs=1)
    layers = report.rank.layers
    layers[0] = layers[0].model_copy(update={"bound": True, "unique": None})
    layers[1] = layers[1].model_copy(update={"bound": True})
    (figure,) = rank_profiles(report)
    assert "at most determined" in figure.svg
    assert "at most all 3072" in figure.svg
    assert "deficit at least 280" in figure.svg
    assert "only an upper bound is known" in figure.caption
    text = Page(render_html(report)).text
    for told in ("≤ 3072", "≤ 3188", "≥ 280", "at least 0"):
        assert told in text
    (certain,) = rank_profiles(build(victims=1, runs=1))
    assert "at most" not in certain.svg + certain.caption


def test_a_long_headline_is_whole() -> None:
    report = build(victims=1, runs=1)
    report.verdict.headline = " ".join(f"word{n}" for n in range(60))
    page = Page(render_html(report))
    assert report.verdict.headline in page.text
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "h1"] == ["long"]


def test_evidence_names_attacks_by_their_titles_and_leaves_out_what_is_empty() -> None:
    report = build(victims=1, runs=1)
    finding = report.findings[0].model_copy(update={"evidence": {"attack": "ig", "layers": [], "attacks": ["ig"]}})
    assert evidence_rows(report, finding) == [
        ("attack", "Inverting Gradients"), ("attacks", "Inverting Gradients"),
    ]  # fmt: skip


def test_undefined_numbers_are_a_dash_never_zero() -> None:
    report = build(victims=1, runs=1)
    sample = report.attacks[0].results[0].samples[0]
    sample.psnr, sample.psnr_reason = None, "the images are equal: PSNR is infinite"
    sample.margin, sample.margin_reason = None, "exact reconstruction"
    text = Page(render_html(report)).text
    assert "the images are equal: PSNR is infinite" in text
    assert "exact reconstruction" in text
    assert "inf dB" not in text
    assert "nan" not in re.findall(r"\w+", text)


def test_a_template_folder_overrides_one_block(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html.j2").write_text(
        '{% extends "bundled/report.html.j2" %}{% block glossary %}<p>Ours.</p>{% endblock %}', encoding="utf-8"
    )
    text = Page(render_html(report, tmp_path)).text
    assert "Ours." in text
    assert "Update, gradient inversion" not in text
    assert "How to reproduce" in text


def test_a_wrong_template_is_a_usage_error(report: Report, tmp_path: Path) -> None:
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "rank.html.j2").write_text("{{ report.no_such_thing }}", encoding="utf-8")
    with pytest.raises(UsageError, match="no_such_thing"):
        render_html(report, tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        render_html(report, tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(None), MISSING), (number(float("nan")), MISSING), (number(3.2e-7, 2), "3.2×10⁻⁷"),
        (number(147_324), "147,324"), (fixed(-1.25, 1), "−1.2"), (seconds(187.4), "3 min 07 s"),
        (seconds(0.5), "0.50 s"),
    ],
)  # fmt: skip
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_command_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    words = ["leakaudit", "scan", "models/net 'a'.onnx", "--batch", "a b.npz", "--class", "$(touch ran)", "--std=0.5"]
    page = Page(render_html(build(victims=1, runs=1, command=words)))
    line = page.text[page.text.index("leakaudit scan ") : page.text.index("--std=0.5") + len("--std=0.5")]
    script = f"leakaudit() {{ printf '%s\\0' \"$@\"; }}\n{line}\n"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split("\0")[:-1] == words[1:], "quoted once"
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_too_long_is_not_shown_in_part() -> None:
    line = command_line(["leakaudit", "scan", "m" * 3000])
    assert line == "# the command has 3,015 characters and stands in report.json, under command"


def test_long_names_keep_both_ends() -> None:
    text = clip("a" * 500 + "z" * 500, 90)
    assert text.startswith("aaa")
    assert text.endswith("z (910 of 1,000 characters left out)")
    assert len(text) < 140


def test_a_soft_label_is_shown_with_how_it_was_read() -> None:
    shown = build(victims=1, runs=1)
    soft = torch.tensor([[0.7, 0.296, 0.004]])
    guess = LabelGuess(torch.tensor([0]), "prediction minus gradient: a soft label", exact=True, soft=soft)
    shown.attacks[0].results[0].labels = label_result(SingleLabel(2), torch.tensor([0]), guess.labels, guess)
    shown.batch.class_names = ["cat", "dog", "owl"]
    text = Page(render_html(shown)).text
    assert "prediction minus gradient: a soft label: 0 (cat) 70 %, 1 (dog) 30 %" in text
    assert "2 (owl) 0 %" not in text


@pytest.mark.parametrize(
    ("victims", "runs", "limit"), [(4, 3, 1_000_000), pytest.param(16, 6, 5_000_000, marks=pytest.mark.slow)]
)
def test_sixteen_victims_and_six_attacks_stay_below_five_megabytes(victims: int, runs: int, limit: int) -> None:
    """The small one has an eighth of the pictures in a fifth of the bytes, for the page itself."""
    assert len(render_html(build(victims=victims, runs=runs)).encode()) < limit


def test_on_paper_hashes_and_addresses_stay_as_they_are() -> None:
    digest, address = "0123456789abcdef" * 4, f"data:image/png;base64,{'A' * 60}"
    for kept in (digest, f"model {digest} of it", address):
        assert _finalize_for_paper(kept) == kept
    assert BREAK in _finalize_for_paper("n" * 60)
