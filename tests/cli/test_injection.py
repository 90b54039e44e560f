"""Hostile names in models, batches, policies and reports command neither a terminal nor a CI system."""

from __future__ import annotations

import ast
import datetime
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

import leakaudit as package
from leakaudit.cli import cli
from leakaudit.cli.output import say_json
from leakaudit.document.schema import HASH_KEY, Report, self_hash
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy, Suppression
from tests.cli.build import leakaudit
from tests.cli.named_model import write_model
from tests.conftest import smooth_images
from tests.report.builder import build
from tests.safety.hostile import PARTS, check_lines, hostile_text

PACKAGE = Path(package.__file__).parent
EVIL = "\n::error::pwned\r\x1b]0;x\x07\x1b[31m\u202e[red]\t##[error]\u200b|`<b>"
FAST = ("--attack", "linear", "--victims", "1", "--controls", "none", "--mean", "0.5", "--std", "0.25", "--no-cache")
FORMATS = ("-f", "json", "-f", "html", "-f", "sarif", "-f", "junit", "-f", "markdown", "-f", "csv")
name = st.one_of(
    st.just(EVIL),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join),
    st.text(alphabet=st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=8),
)


def run(*words: object) -> tuple[int, str]:
    """The exit code and all output, checked."""
    code, out, err = leakaudit(*words)
    check_lines(out)
    check_lines(err)
    return code, out + err


def raw_writers(tree: ast.AST) -> Iterator[int]:
    """Lines that write to the terminal past `leakaudit.cli.output`."""
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in ("print", "Console", "rich_print", "echo", "secho"):
            yield called.lineno
        if isinstance(called, ast.Attribute) and called.attr in ("echo", "secho", "show", "echo_via_pager"):
            yield called.lineno
        if isinstance(called, ast.Attribute) and called.attr in ("print", "log", "print_json", "print_exception"):
            owner = called.value.id if isinstance(called.value, ast.Name) else getattr(called.value, "attr", "")
            if "console" in owner.lower():
                yield called.lineno
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__"):
            yield node.lineno


def test_only_one_module_writes_to_the_terminal() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "cli" / "output.py"]
    assert len(files) > 100
    found = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in files
        for line in raw_writers(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["click.echo(1)", "print(1)", "console.print(1)", "self.console.print(1)", "error.show()", "sys.stderr.write('')"],
)
def test_the_search_for_writers_finds_one(line: str) -> None:
    assert list(raw_writers(ast.parse(line)))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(name, min_size=1, max_size=5), st.sampled_from(["text", "json"]))
@example([EVIL], "text")
@example(["::error::"], "text")
@example(["::error::"], "json")
def test_a_hostile_model_is_described_in_harmless_lines(tmp_path: Path, names: list[str], form: str) -> None:
    model = write_model(tmp_path / "model.onnx", names)
    for command in ("inspect", "rank"):
        code, text = run(command, model, "--format", form)
        assert code in (0, 2, 3), text
        if form == "json" and code == 0:
            json.loads(text)
    run("rank", model, "--what-if", f"width={names[0]}:3")
    run("inspect", model, "--dropout", f"{names[0]}=0.5")


def test_a_hostile_model_and_batch_are_scanned_in_harmless_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    folder = tmp_path / f"{EVIL} batch".replace("/", "")
    for number in range(5):
        place = folder / f"::error::{number}{EVIL}".replace("/", "")
        place.mkdir(parents=True)
        pixels = (smooth_images(4, seed=number) * 255).astype(np.uint8)
        for index, image in enumerate(pixels):
            Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{index}.png")
    model = write_model(tmp_path / f"::error::{EVIL}.onnx".replace("/", ""), ["conv", "::error::x", "[red]"])
    out = tmp_path / f"{EVIL}out".replace("/", "")
    code, text = run("scan", model, "-b", folder, "-o", out, *FAST, *FORMATS, "-v")
    assert code in (0, 1, 5), text
    assert "Report: " in text
    check_files(out, tmp_path / "summary.md")
    (folder / f"::error::0{EVIL}".replace("/", "") / f"{EVIL}.png".replace("/", "")).write_bytes(b"no image")
    code, text = run("scan", model, "-b", folder, "-o", out, *FAST)
    assert code == 3
    assert "pwned" in text
    (tmp_path / "fail.onnx").write_bytes(b"no model")
    os.rename(tmp_path / "fail.onnx", tmp_path / f"{EVIL}fail.onnx".replace("/", ""))
    code, text = run("scan", tmp_path / f"{EVIL}fail.onnx".replace("/", ""), "-b", folder, "-o", out, *FAST, *FORMATS)
    assert code == 3
    check_files(out, tmp_path / "summary.md")


def check_files(out: Path, summary: Path) -> None:
    """The files that a CI system reads or repeats in its log."""
    for path in (summary, out / "report.md", out / "scores.csv"):
        check_lines(path.read_text(encoding="utf-8"))
    tree = ElementTree.parse(out / "report.junit.xml")
    for element in tree.iter():
        for text in (element.text or "", *element.attrib.values()):
            check_lines(text)
    for text in texts(json.loads((out / "report.sarif").read_text(encoding="utf-8"))["runs"][0], "text"):
        check_lines(text)


def texts(value: Any, wanted: str) -> Iterator[str]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if key == wanted and isinstance(item, str):
            yield item
        yield from texts(item, wanted)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(name, st.just(EVIL)))
def test_a_hostile_policy_ends_in_harmless_lines(tmp_path: Path, text: str) -> None:
    quoted = json.dumps(text).replace("\x7f", "\\u007f")
    for body in (
        f"{quoted} = 1", f"fail-on = {quoted}", f"preset = {quoted}", f"batch = {quoted}", f"model = {quoted}",
        f"[rules]\n{quoted} = 'low'", f"[rules]\nLA301 = {quoted}", f"[[suppress]]\n{quoted} = 1",
        f"[[suppress]]\nrule = {quoted}", f"mean = {quoted}", f"baseline = {quoted}", f"attack = [{quoted}]",
        f"defence = {quoted}", f"input-shape = {quoted}", f"set = [{quoted}]", f"template-dir = {quoted}",
        f"{quoted} =",
    ):  # fmt: skip
        (tmp_path / "policy.toml").write_text(body, encoding="utf-8")
        code, shown = run("render", tmp_path / "none.json", "--policy", tmp_path / "policy.toml", "-o", tmp_path / "o")
        assert code == 2, (body, shown)
        assert "Error: " in shown
        code, shown = run("scan", "m.onnx", "-b", "b.npz", "--policy", tmp_path / "policy.toml", "-o", tmp_path / "o")
        assert code == 2, (body, shown)


@pytest.fixture(scope="module")
def hostile_report() -> dict[str, Any]:
    """A valid report in which every text that may be anything holds the attack."""
    ended = Suppression(rule="LA301", reason="r", expires=datetime.date(2020, 1, 1))
    report = apply_policy(build(victims=1, runs=1), Policy(suppressions=(ended,), file=Path("p.toml")))
    document = json.loads(report.to_json())
    del document[HASH_KEY]
    replaced = set()
    for key in sorted(set(keys(document))):
        changed = replace_texts(document, key)
        try:
            Report.model_validate(changed)
        except ValidationError:
            continue
        document = changed
        replaced.add(key)
    assert {"name", "title", "message", "headline", "reason", "gate", "path"} <= replaced
    document["verdict"]["status"] = evil("")
    return dict(document)


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


def replace_texts(value: Any, wanted: str) -> Any:
    if isinstance(value, dict):
        return {k: evil(item) if k == wanted else replace_texts(item, wanted) for k, item in value.items()}
    return [replace_texts(item, wanted) for item in value] if isinstance(value, list) else value


def evil(value: Any) -> Any:
    if isinstance(value, str) and not value.startswith("iVBOR"):
        return f"::error::{EVIL}"
    return [evil(item) if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def test_a_hostile_report_is_read_in_harmless_lines(
    hostile_report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    plain = build(victims=1, runs=1).to_json()
    (tmp_path / "plain.json").write_text(plain, encoding="utf-8")
    hostile_report[HASH_KEY] = self_hash(hostile_report)
    report = tmp_path / "hostile.json"
    report.write_text(json.dumps(hostile_report), encoding="utf-8")
    for pair in ((report, tmp_path / "plain.json"), (tmp_path / "plain.json", report), (report, report)):
        code, text = run("compare", *pair)
        assert code == (0 if pair[0] == pair[1] else 2), text  # a hostile mode is another mode, and named
        assert "pwned" in text
        code, text = run("compare", *pair, "--allow-different")
        assert code in (0, 1), text
        assert "pwned" in text
    code, text = run("render", report, "-o", tmp_path / "out", *FORMATS)
    assert code in (0, 1), text
    check_files(tmp_path / "out", tmp_path / "summary.md")
    code, text = run("verify", report, "--model", report)
    assert code == 3, text
    hostile_report[HASH_KEY] = EVIL
    report.write_text(json.dumps(hostile_report), encoding="utf-8")
    assert "pwned" in run("verify", report)[1]
    for key in ("schema_version", "attacks", "created"):
        report.write_text(json.dumps({**hostile_report, key: EVIL, EVIL: EVIL}), encoding="utf-8")
        for command in (("compare", report, report), ("render", report, "-o", tmp_path / "out2"), ("verify", report)):
            assert run(*command)[0] in (0, 1, 2, 3)


@pytest.mark.parametrize(
    "words", [(EVIL,), ("scan", f"--{EVIL}"), ("explain", EVIL), ("inspect", EVIL), ("scan", EVIL)]
)
def test_hostile_words_of_the_command_line(words: tuple[str, ...]) -> None:
    assert run(*words)[0] == 2


NOISY = """
import logging, sys, warnings, click
from leakaudit.cli import cli, main

@click.command()
@click.argument("evil")
@click.option("--debug", is_flag=True)
def noisy(evil, debug):
    warnings.warn(evil)
    logging.warning(evil)
    handler = logging.StreamHandler()
    logging.getLogger("library").addHandler(handler)
    logging.getLogger("library").error(evil)
    print(evil)
    print(evil, " ", "::error::", sep="\\n", file=sys.stderr)
    raise RuntimeError(evil)

type(cli).get_command = lambda *_: noisy
main()
"""


def test_warnings_log_records_and_tracebacks_are_shown_too() -> None:
    command = [sys.executable, "-c", NOISY, "noisy", EVIL.replace("\x00", ""), "--debug"]
    ended = subprocess.run(command, capture_output=True, timeout=120)
    out, err = ended.stdout.decode(), ended.stderr.decode()
    check_lines(out)
    check_lines(err)
    assert ended.returncode == 3
    assert (out.count("pwned"), err.count("pwned")) >= (1, 6)
    assert "UserWarning" in err
    assert "Traceback" in err
    assert "Error: internal error: RuntimeError" in err


def test_the_command_itself_is_as_safe_as_its_entry_point() -> None:
    result = CliRunner().invoke(cli, ["explain", EVIL])
    check_lines(result.output)
    assert result.exit_code == 2
    assert "Error: " in result.output


@settings(max_examples=300, deadline=None)
@given(hostile_text)
@example("##[error]\x7f::error::\n::error::")
def test_json_keeps_its_values(text: str) -> None:
    kept, sys.stdout = sys.stdout, io.StringIO()
    try:
        say_json({text: [text]})
        written = sys.stdout.getvalue()
    finally:
        sys.stdout = kept
    check_lines(written)
    assert json.loads(written) == {text: [text]}
