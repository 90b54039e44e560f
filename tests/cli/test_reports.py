"""Commands on finished reports: compare, verify, render, and init."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from leakaudit.capture import record
from leakaudit.client.readers.images import hash_batch, load_batch
from leakaudit.document.schema import Report, RoundEntry
from leakaudit.domains.images import Images
from leakaudit.policy.read import read_policy
from leakaudit.report.formats import pdf
from leakaudit.report.formats.base import FormatUnavailable
from tests.cli.build import export, leakaudit
from tests.conftest import small_mlp, smooth_images
from tests.report.builder import build


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(build(victims=1, runs=1).to_json(), encoding="utf-8")
    return path


def test_compare_names_what_changed(report: Path, tmp_path: Path) -> None:
    document = build(victims=1, runs=1)
    fewer = tmp_path / "fewer.json"
    fewer.write_text(document.model_copy(update={"findings": document.findings[1:], "seed": 1}).to_json())
    code, out, _ = leakaudit("compare", fewer, report)
    assert code == 1
    assert "new     LA201" in out
    assert "same    LA301" in out
    assert "differs seed: 1 before, 4711 now" in out
    code, out, _ = leakaudit("compare", report, fewer)
    assert code == 0
    assert "gone    LA201" in out
    code, _, err = leakaudit("compare", report, tmp_path / "none.json")
    assert code == 2
    assert "cannot read the report" in err


def test_verify_finds_any_change(report: Path, tmp_path: Path) -> None:
    assert leakaudit("verify", report)[0] == 0
    document = json.loads(report.read_text())
    report.write_text(json.dumps(document, sort_keys=True))
    assert leakaudit("verify", report)[0] == 0, "white space and order do not matter"
    document["attacks"][0]["results"][0]["samples"][0]["psnr"] += 1e-9
    report.write_text(json.dumps(document))
    code, out, _ = leakaudit("verify", report)
    assert code == 3
    assert "DIFFERS report" in out
    report.write_text("[1]")
    assert leakaudit("verify", report)[0] == 2


def test_verify_compares_model_and_batch(tmp_path: Path) -> None:
    model, batch = tmp_path / "m.onnx", tmp_path / "b.npz"
    model.write_bytes(b"weights")
    np.savez(batch, x=smooth_images(5), y=np.arange(5))
    document = build(victims=1, runs=1)
    loaded = load_batch(batch, Images((3, 12, 12), (0.5,) * 3, (0.25,) * 3), 5)
    target = document.target.model_copy(update={"sha256": hash_batch(model)})
    samples = document.batch.model_copy(update={"sha256": loaded.sha256})
    path = tmp_path / "report.json"
    path.write_text(document.model_copy(update={"target": target, "batch": samples}).to_json())
    assert leakaudit("verify", path, "--model", model, "--batch", batch)[0] == 0
    model.write_bytes(b"weightz")
    code, out, _ = leakaudit("verify", path, "--model", model, "--batch", batch)
    assert code == 3
    assert "DIFFERS model" in out
    assert "ok      batch" in out
    assert leakaudit("verify", path, "--model", tmp_path / "none")[0] == 2


def test_verify_checks_a_recorded_update_and_a_folder_of_rounds(tmp_path: Path) -> None:
    arrays = {"w": np.zeros(3, np.float32)}
    places = [record(arrays, {"w": np.full(3, n, np.float32)}, out=tmp_path / "rounds" / str(n)) for n in (1, 2, 3)]
    hashes = [hash_batch(place / "after.safetensors") for place in places if place]
    document = build(victims=1, runs=1)
    entries = [
        RoundEntry(victim=n, label="", kind="weights", sha256=hashes[n], samples=1, known=False, own_weights=False)
        for n in (0, 2)
    ]
    single, several = tmp_path / "single.json", tmp_path / "several.json"
    one = document.protocol.model_copy(update={"update_sha256": hashes[0]})
    single.write_text(document.model_copy(update={"protocol": one}).to_json())
    both = document.protocol.model_copy(update={"update_sha256": "0" * 64, "rounds": entries})
    several.write_text(document.model_copy(update={"protocol": both}).to_json())
    file = tmp_path / "rounds" / "1" / "after.safetensors"
    for update in (file, file.parent):
        assert leakaudit("verify", single, "--update", update)[0] == 0
    code, out, _ = leakaudit("verify", several, "--update", tmp_path / "rounds")
    assert (code, "2 rounds, each with the SHA-256 of the report" in out) == (0, True), (
        "one that was left out may be there"
    )
    (tmp_path / "rounds" / "3" / "after.safetensors").write_bytes(b"other")
    code, out, _ = leakaudit("verify", several, "--update", tmp_path / "rounds")
    assert (code, "DIFFERS update" in out, "1 of the report's 2 rounds" in out) == (3, True, True)
    assert leakaudit("verify", single, "--update", tmp_path / "rounds")[0] == 3
    assert leakaudit("verify", single, "--update", tmp_path / "none")[0] == 2


def test_render_writes_other_views_and_never_shows_more(report: Path, tmp_path: Path) -> None:
    code, out, err = leakaudit("render", report, "-f", "json", "-f", "csv", "--evidence", "none", "-o", tmp_path / "a")
    assert code == 1, err
    assert "scores.csv" in out
    code, _, _ = leakaudit(
        "render", tmp_path / "a" / "report.json", "-f", "json", "--evidence", "full", "-o", tmp_path / "b",
        "--fail-on", "never",
    )  # fmt: skip
    assert code == 0
    document = json.loads((tmp_path / "b" / "report.json").read_text())
    assert document["evidence"] == "none"
    assert document["attacks"][0]["results"][0]["samples"][0]["original_png"] is None
    assert leakaudit("verify", tmp_path / "b" / "report.json")[0] == 0


def test_init_writes_a_policy_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert leakaudit("init")[0] == 0
    text = (tmp_path / "leakaudit.toml").read_text()
    _, options = read_policy(tmp_path / "leakaudit.toml")
    assert options["fail_on"] == "high"
    code, _, err = leakaudit("init")
    assert code == 2
    assert "already there" in err
    head = text.index("# [[suppress]]")
    keys = "\n".join(line.removeprefix("# ") for line in text[head:].splitlines())
    (tmp_path / "all.toml").write_text(text[:head] + keys)
    assert read_policy(tmp_path / "all.toml")[0].suppressions[0].rule == "LA404"


def test_a_policy_for_scans_serves_render_too(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leakaudit("init")
    code, _, err = leakaudit("render", report, "-o", tmp_path / "out")
    assert code == 1, err
    assert (tmp_path / "out" / "report.sarif").is_file()


# What was asked for and cannot be had


@pytest.mark.parametrize("formats", [("pdf",), ("json", "pdf")])
def test_a_pdf_that_was_asked_for_is_an_error_without_its_libraries(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formats: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    wanted = [word for name in formats for word in ("-f", name)]
    code, out, err = leakaudit("render", report, "-o", tmp_path / "out", *wanted)
    assert (code, out) == (2, "")
    error, hint = err.splitlines()
    assert error.startswith("Error: --format pdf cannot be written here. report.pdf not written: WeasyPrint does not")
    assert "libpango-1.0-0" in error
    assert hint == "Hint:  install that, or leave out --format pdf"
    assert not (tmp_path / "out").exists(), "it is said before anything is done"
    code, _, err = leakaudit("render", report, "-o", tmp_path / "out", "--fail-on", "never")
    assert code == 0, "by default the others are written"
    assert "Warning: report.pdf not written" in err


def test_a_format_that_turns_out_to_be_unavailable_is_an_error_after_the_others(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise FormatUnavailable("report.pdf not written: out of fonts")

    monkeypatch.setattr(pdf, "render_pdf", fail)
    monkeypatch.setattr(pdf, "load_weasyprint", lambda: None)
    code, _, err = leakaudit("render", report, "-o", tmp_path / "out", "-f", "pdf", "-f", "csv")
    assert code == 2
    assert "Warning: report.pdf not written: out of fonts" in err
    assert "Error: report.pdf was asked for and could not be written" in err
    assert (tmp_path / "out" / "scores.csv").exists()


def test_a_hook_of_pre_commit_blurs_unless_told_otherwise(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRE_COMMIT", "1")  # as pre-commit sets it for every hook that it runs
    for number, (words, level) in enumerate((((), "blurred"), (("--evidence", "full"), "full"))):
        out = tmp_path / str(number)
        leakaudit("render", report, "-o", out, "-f", "json", *words)
        assert Report.load(out / "report.json").evidence == level


# Where code scanning looks for the model


@pytest.mark.parametrize("evidence", ["full", "none"])
@pytest.mark.parametrize(
    ("folder", "path"), [("ci", "../models/net 1.onnx"), ("models", "net 1.onnx"), (".", "models/net 1.onnx")]
)
def test_sarif_names_the_model_from_the_root_of_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, path: str, evidence: str
) -> None:
    root = tmp_path / "repository"
    for name in (".git", "ci", "models"):
        (root / name).mkdir(parents=True)
    export(small_mlp(), root / "models" / "net 1.onnx")
    np.savez(root / "batch.npz", x=smooth_images(8), y=np.arange(8) % 5)
    monkeypatch.chdir(root / folder)
    words = ("--victims", 1, "--attack", "linear", "--controls", "none", "--fail-on", "never", "--evidence", evidence)
    formats = ("-f", "sarif", "-f", "json", "-o", tmp_path / "out")
    code, _, err = leakaudit("scan", path, "-b", root / "batch.npz", *words, *formats)
    assert code in (0, 5), err

    def named() -> set[str]:
        run = json.loads((tmp_path / "out" / "report.sarif").read_text())["runs"][0]
        places = [location["physicalLocation"] for result in run["results"] for location in result["locations"]]
        return {place["artifactLocation"]["uri"] for place in places}

    assert named() == {"models/net%201.onnx"}
    monkeypatch.chdir(tmp_path)  # rendered anew elsewhere
    (tmp_path / "out" / "report.sarif").unlink()
    rendered = ("--evidence", evidence, "--fail-on", "never", *formats[:2], "-f", "json", *formats[4:])
    assert leakaudit("render", tmp_path / "out" / "report.json", *rendered)[0] == 0
    assert named() == {"models/net%201.onnx"}
