"""Every command line in the README and in docs/ names a command and options that exist, and every link a page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from leakaudit.cli import COMMANDS, cli
from tests.pages import PAGES, calls

GENERATED = {"attacks.md", "commands.md", "document.md", "findings.md", "policy.md"}
"""Pages that are made when the documentation is built (.ci/generated_pages.py)."""


def test_there_are_command_lines() -> None:
    assert len(calls()) > 20


@pytest.mark.parametrize(("page", "line"), calls(), ids=lambda value: value[:60])
def test_command_and_options_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    assert words[0] in COMMANDS, f"{page}: {line}"
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    assert not unknown, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not target.startswith(("http", "mailto:"))
        and Path(target).name not in GENERATED
        and not (page.parent / target).exists()
    ]
    assert not missing, f"{page.name}: {missing}"
