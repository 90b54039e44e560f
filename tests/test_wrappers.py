"""What surrounds the program: the action, hooks, the documentation, and the example of a custom report."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leakaudit.policy.read import read_policy
from leakaudit.report.formats.html import render_html
from leakaudit.safety.toml import read_toml
from tests.conftest import ROOT
from tests.prepared import images
from tests.report.builder import build
from tests.safety.hostile import check_lines

FAST = "--attack linear --victims 1 --controls none --preset quick --no-cache"
yaml = pytest.importorskip("yaml", reason="PyYAML comes with the docs extra")


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def scanned(folder: Path, given: dict[str, str], code: int = 0) -> tuple[list[str] | None, str, str]:
    """Words that the action's step hands to leakaudit, its outputs, and what it says; no words if it does not."""
    step = next(step for step in load("action.yml")["runs"]["steps"] if step.get("id") == "scan")
    stub = folder / "leakaudit"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {folder}/args\nexit {code}\n')
    stub.chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}", "MODEL": "", "BATCH": "", "ARGS": "", "OUT": "out",
        "GITHUB_OUTPUT": str(folder / "output"), **given,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], check=True, env=environment, cwd=folder, capture_output=True, text=True
    )
    called = folder / "args"
    words = called.read_text().split("\0")[:-1] if called.exists() else None
    return words, (folder / "output").read_text(), done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("given", "code"), [({"MODEL": "my model.onnx", "BATCH": "b.npz", "ARGS": "--mean 0.5"}, 1), ({}, 0)]
)
def test_the_action_scans_and_hands_the_exit_code_on(tmp_path: Path, given: dict[str, str], code: int) -> None:
    words, output, _ = scanned(tmp_path, given, code)
    assert words is not None
    assert words[:3] == ["scan", "-o", "out"]
    assert ("my model.onnx" in words) is bool(given)
    assert words[-2:] == (["--mean", "0.5"] if given else ["-f", "markdown"])
    assert output == f"exit-code={code}\n"
    assert set(load("action.yml")["inputs"]) == {"model", "batch", "args", "out", "upload-sarif"}
    used = re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text())
    assert set(used) == set(load("action.yml")["inputs"])


ARGS = {
    "--mean 0.5\n--std 0.25\n": ["--mean", "0.5", "--std", "0.25"],
    "--mean 0.5\r\n--std 0.25": ["--mean", "0.5", "--std", "0.25"],
    "--mean 0.5 \\\n  --std 0.25": ["--mean", "0.5", "--std", "0.25"],
    '--auxiliary "my images" --set \'ig.iterations=5\'': ["--auxiliary", "my images", "--set", "ig.iterations=5"],
    '--frozen "*.bias" --output ""': ["--frozen", "*.bias", "--output", ""],
    "--output '$(touch ran) `touch ran` $HOME; touch x'": ["--output", "$(touch ran) `touch ran` $HOME; touch x"],
    "--output a#b": ["--output", "a#b"],
    "--output 'two\nlines'": ["--output", "two\nlines"],
}  # fmt: skip


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("args", ARGS)
def test_the_action_reads_its_args_as_a_shell_would_and_runs_nothing(tmp_path: Path, args: str) -> None:
    words, _, _ = scanned(tmp_path, {"ARGS": args})
    assert words is not None
    assert words[words.index("markdown") + 1 :] == ARGS[args]
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_action_says_which_args_it_cannot_read(tmp_path: Path) -> None:
    words, output, said = scanned(tmp_path, {"ARGS": "--mean '0.5"})
    assert (words, output) == (None, "exit-code=2\n")
    assert said == "Error: args of the action cannot be read as words (No closing quotation): is a quote not closed?\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("model", "code", "said"), [("model.onnx", 1, "LEAKS"), ("damaged.onnx", 3, "could not audit")]
)
def test_the_steps_of_the_action_run_with_the_files_of_the_service(
    tmp_path: Path, model: str, code: int, said: str
) -> None:
    images(tmp_path)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    program = tmp_path / "leakaudit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m leakaudit "$@"\n')
    program.chmod(0o755)
    files = {name: str(tmp_path / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    given = {"MODEL": model, "BATCH": "batch.npz", "OUT": "out", "ARGS": f"{FAST}\n--mean 0.5 --std '0.25'"}
    service = {"CI": "true", "GITHUB_ACTIONS": "true", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **service, **files, **given}
    scan, result = (step for step in load("action.yml")["runs"]["steps"] if step["name"] in ("Scan", "Result"))
    ran = run_step(scan, environment, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert Path(files["GITHUB_OUTPUT"]).read_text() == f"exit-code={code}\n"
    assert said in Path(files["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")
    check_lines(ran.stdout + ran.stderr)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.sarif", "report.junit.xml"} <= written
    assert ("report.html" in written) is (code == 1)
    assert run_step(result, {**environment, "CODE": str(code)}, tmp_path).returncode == code


def run_step(step: dict[str, Any], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A step as the service runs it: ``shell: bash`` stops at the first error."""
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


def test_the_hook_runs_what_exists() -> None:
    (hook,) = load(".pre-commit-hooks.yaml")
    assert hook["entry"] == "leakaudit scan"
    assert hook["pass_filenames"] is False
    for name in ("model.onnx", "a/sample.npz", "leakaudit.toml"):
        assert re.search(hook["files"], name)


def test_the_snippets_of_the_documentation_are_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    snippets = {kind: re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("yaml", "toml")}
    assert len(snippets["yaml"]) == 3
    gitlab = next(yaml.safe_load(s) for s in snippets["yaml"] if "artifacts" in s)
    assert gitlab["leakaudit"]["artifacts"]["reports"]["junit"] == "leakaudit-report/report.junit.xml"
    (policy,) = snippets["toml"]
    (tmp_path / "leakaudit.toml").write_text(policy)
    assert read_policy(tmp_path / "leakaudit.toml")[0].suppressions


def test_every_block_that_the_documentation_names_exists() -> None:
    named = (ROOT / "docs" / "report.md").read_text(encoding="utf-8").split("Blocks: ")[1]
    skeleton = (ROOT / "report_templates" / "report.html.j2").read_text(encoding="utf-8")
    blocks = set(re.findall(r"{% block (\w+) %}", skeleton)) - {"cover"}
    assert set(re.findall(r"`(\w+)`", named)) == blocks


def test_the_custom_report_replaces_blocks_and_keeps_the_rest() -> None:
    page = render_html(build(victims=1, runs=1), ROOT / "examples" / "custom-report" / "templates")
    assert "<title>Example Corp. privacy review: cnn6-d</title>" in page
    assert 'id="contact"' in page
    assert 'id="annex"' in page
    assert "Whom to ask" not in render_html(build(victims=1, runs=1))


@pytest.mark.slow  # `make check` builds it as well
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    pytest.importorskip("mkdocstrings", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = (tmp_path / "site" / "findings" / "index.html").read_text(encoding="utf-8")
    assert 'id="LA201"' in findings
    attacks = (tmp_path / "site" / "attacks" / "index.html").read_text(encoding="utf-8")
    entry_points = read_toml(ROOT / "pyproject.toml", "it")["project"]["entry-points"]["leakaudit.attacks"]
    assert all(f'id="{name}"' in attacks for name in entry_points)
