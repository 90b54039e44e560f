"""What the documentation is built with: keys of a policy from the options, formulas without a script."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path
from typing import Any

import click
import pytest

from leakaudit.cli import cli
from leakaudit.cli.options.policy import CODE, keys_of_files
from leakaudit.errors import UsageError
from tests.cli.build import leakaudit
from tests.conftest import ROOT


def loaded(name: str) -> Any:
    """A module of .ci, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scan() -> click.Command:
    command = cli.get_command(click.Context(cli), "scan")
    assert command is not None
    return command


def test_every_key_that_a_policy_knows_stands_in_the_reference_and_no_other() -> None:
    from leakaudit.policy.read import refuse_unknown

    keys = keys_of_files(scan())
    assert {"model", "batch", "fail-on", "set", "attack", "time-budget"} <= set(keys)
    assert not {"policy", "help", "dry-run"} & set(keys)
    known = {name.lstrip("-").replace("-", "_") for p in scan().params for name in (*p.opts, p.name or "")}
    refuse_unknown(Path("leakaudit.toml"), {key.replace("-", "_"): 1 for key in keys}, known)
    assert {parameter.name for parameter in keys.values()} | {"store"} >= CODE


def test_the_page_of_policy_keys_says_what_can_run_code() -> None:
    pytest.importorskip("mkdocs")
    page = loaded("generated_pages").policy_page()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert all("Can run code" in rows[key] for key in ("factory", "trust", "template-dir"))
    assert "Can run code" not in rows["seed"]
    assert "`critical`, `high`, `medium`, `low`, `never`" in rows["fail-on"]
    assert "list of" in rows["defence"]


def test_a_key_of_the_reference_counts_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leakaudit.toml").write_text("no-such-key = 1\n", encoding="utf-8")
    code, _, err = leakaudit("scan", "model.onnx")
    assert code == UsageError.exit_code
    assert "no-such-key" in err or "no_such_key" in err


def test_formulas_become_mathml_and_code_stays() -> None:
    pytest.importorskip("latex2mathml")
    mathematics = loaded("mathematics")
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="page.md"))
    blocks = (
        "With $\\hat x_1 * \\hat x_2$ and `$HOME`, from $5 to $6:", "$$ r = \\frac{a}{b} $$", "    $x$ stays",
        "```sh\necho $A$B\n```",
    )  # fmt: skip
    text = "\n\n".join(blocks) + "\n"
    taken = mathematics.on_page_markdown(text, page)
    assert "hat" not in taken
    assert "frac" not in taken
    for kept in ("`$HOME`", "from $5 to $6:", "    $x$ stays", "echo $A$B"):
        assert kept in taken
    html = "".join(f"<p>{block}</p>" for block in taken.split("\n\n") if block)
    finished = mathematics.on_page_content(html, page)
    assert finished.count("<math ") == 2
    assert "<p><math" not in finished
    assert "\u2060" not in finished
