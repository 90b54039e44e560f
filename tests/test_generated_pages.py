"""What the documentation is built with: keys of a policy from the options, formulas without a script."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click
import pytest

from leakaudit.cli import cli
from leakaudit.cli.options.policy import _NO_KEYS, keys_of_files
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


def test_the_reference_has_a_key_for_every_option_that_a_file_may_set_and_no_other() -> None:
    keys = keys_of_files(scan())
    assert {"model", "batch", "fail-on", "set", "attack", "time-budget"} <= set(keys)
    assert {parameter.name for parameter in keys.values()} == {p.name for p in scan().params} - _NO_KEYS


@pytest.mark.parametrize("key", sorted(keys_of_files(scan())))
def test_a_key_of_the_reference_is_known_in_a_file(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(f"{key} = 1\n", encoding="utf-8")
    _, _, err = leakaudit("scan", "model.onnx", "--policy", "own.toml")
    assert "Error:" in err
    assert "unknown key" not in err, "another complaint is right: there is no such model, or 1 is no value"


def test_the_page_of_policy_keys_says_what_can_run_code() -> None:
    pytest.importorskip("mkdocs")
    page = loaded("generated_pages").policy_page()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert all("Can run code." in rows[key] for key in ("factory", "trust", "template-dir"))
    assert all("Can run code as module:function." in rows[key] for key in ("defence", "claim", "loss"))
    assert "Can run code" not in rows["seed"]
    assert "`critical`, `high`, `medium`, `low`, `never`" in rows["fail-on"]
    assert "list of" in rows["defence"]


def test_another_key_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leakaudit.toml").write_text("no-such-key = 1\n", encoding="utf-8")
    code, _, err = leakaudit("scan", "model.onnx")
    assert code == UsageError.exit_code
    assert "unknown key" in err


def test_formulas_become_mathml_and_code_stays() -> None:
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("latex2mathml")
    blocks = (
        "With $\\hat x_1 * \\hat x_2 < 1$ and `$HOME`, from $5 to $6:", "$$ r = \\frac{a}{b} $$", "    $x$ stays",
        "```sh\necho $A$B\n```",
    )  # fmt: skip
    extensions = ["pymdownx.superfences", "pymdownx.arithmatex"]
    settings = {"pymdownx.arithmatex": {"generic": True}}
    page = markdown.markdown("\n\n".join(blocks), extensions=extensions, extension_configs=settings)
    finished = loaded("mathematics").on_page_content(page)
    assert finished.count("<math ") == 2
    assert "hat" not in finished
    assert "arithmatex" not in finished
    for kept in ("$HOME", "from $5 to $6:", "$x$ stays"):
        assert kept in finished
