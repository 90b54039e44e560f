"""Shells complete commands and options, by the lines that the documentation gives."""

from __future__ import annotations

import re

import pytest
from click.shell_completion import get_completion_class

from leakaudit.cli import cli
from tests.conftest import ROOT

LINES = re.findall(r"_LEAKAUDIT_COMPLETE=(\w+)_source leakaudit", (ROOT / "docs" / "options.md").read_text("utf-8"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_shells_complete_commands_and_options(shell: str) -> None:
    assert shell in LINES
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(cli, {}, "leakaudit", "_LEAKAUDIT_COMPLETE")
    assert [item.value for item in completion.get_completions([], "sc")] == ["scan"]
    assert "--preset" in [item.value for item in completion.get_completions(["scan"], "--pre")]
