"""The help of the larger commands stands in sections, and no option is left over."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from leakaudit.cli import cli
from leakaudit.cli.options.sections import OTHER, SECTIONS, section_of


@pytest.mark.parametrize("name", ["scan", "defend", "rank", "inspect"])
def test_every_option_has_a_section_and_is_shown_once(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert not [p.name for p in options if section_of(p.name or "") == OTHER]
    shown = CliRunner().invoke(cli, [name, "--help"], standalone_mode=False).stdout
    rows = [line.split()[0].rstrip(",") for line in shown.splitlines() if line.startswith("  -")]
    assert len(rows) == len(options) + 1  # and --help
    assert "Other:" not in shown


def test_sections_come_in_their_order_with_the_most_used_first() -> None:
    shown = CliRunner().invoke(cli, ["scan", "--help"], standalone_mode=False).stdout.splitlines()
    headings = [line[:-1] for line in shown if line[:1].isalpha() and line.endswith(":")]
    assert headings == [heading for heading in SECTIONS if heading != "Analysis"]
    assert shown[shown.index("Attack:") + 1].startswith("  --preset")


def test_an_option_that_no_section_knows_is_shown_all_the_same() -> None:
    from leakaudit.cli.options.sections import Sectioned

    command = Sectioned("toy", params=[click.Option(["--strange"], help="Of another package.")])
    shown = CliRunner().invoke(command, ["--help"]).stdout
    assert "Other:" in shown
    assert "--strange" in shown
