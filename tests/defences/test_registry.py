"""Defences of other packages: one file and one entry point make one work everywhere."""

from __future__ import annotations

import ast
import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import leakaudit as package
from leakaudit import Defence, UsageError
from leakaudit.defences.registry import GROUP, available, default_grid
from leakaudit.defences.spec import parse_defence
from tests.cli.build import leakaudit
from tests.defences.toy import Half
from tests.plugins import Install


@pytest.fixture
def installed(install: Install) -> None:
    """As if a package with the entry point were installed."""
    install(GROUP, half="tests.defences.toy:Half")


@pytest.mark.usefixtures("installed")
def test_a_defence_of_another_package_works_from_the_command_line(model: Path, batch: Path, tmp_path: Path) -> None:
    code, _, err = leakaudit(
        *("scan", model, "--batch", batch, "--out", tmp_path, "-q", "--victims", 1, "--preset", "quick", "-f", "json"),
        *("--defence", "half,factor=0.25,twice", "--attack", "ig", "--set", "ig.iterations=20", "--controls", "none"),
    )
    assert code in (0, 1), err
    (entry,) = json.loads((tmp_path / "report.json").read_text())["defences"]
    assert entry["text"] == "factor=0.25,twice=True"
    assert entry["settings"] == {"factor": 0.25, "twice": True}
    assert entry["evaluated_by"] == ["ig"]
    assert entry["checks"][0] == {"what": "share", "expected": "0.0625", "measured": "0.0625", "holds": True}
    assert entry["accounting"]["epsilon"] == 7.0


@pytest.mark.usefixtures("installed")
def test_it_is_listed_and_its_settings_are_tried() -> None:
    code, out, _ = leakaudit("defences")
    assert code == 0
    assert "half  A fraction of the update" in out
    assert "factor=0.5, twice=False" in out
    assert "dia, " in out.split("A fraction of the update")[1]
    assert default_grid(1, 64)[-2:] == ("half", "half,twice")
    assert list(available())[-1] == "half"
    assert parse_defence("half,twice=false") == Half()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("text", ["half,twice=maybe", "half,factor=much", "half,size=3"])
def test_its_settings_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="--defence"):
        parse_defence(text)


def test_one_that_cannot_be_imported_is_named(install: Install) -> None:
    install(GROUP, mine="not_there:Mine")
    with pytest.raises(UsageError, match="the defence 'mine' of the package 'their_mine'"):
        available()


def test_the_default_grid_is_as_documented() -> None:
    assert default_grid(2, 16) == (
        "clip=1,noise=0.005", "clip=1,noise=0.05", "clip=1,noise=0.5", "prune=0.9", "prune=0.99", "sign",
        "accumulate=4", "soteria=0.5", "precode=64", "dropout=0.5",
    )  # fmt: skip
    for text in default_grid(2, 16):
        assert isinstance(parse_defence(text), Defence)


def test_no_other_room_knows_a_defence_by_its_class() -> None:
    """Everything particular to a defence is a method of it: nobody outside imports one, and none imports another's."""
    root = Path(package.__file__).parent
    concrete = {point.value.partition(":")[0] for point in entry_points(group=GROUP)}
    assert len(concrete) == 11
    for file in root.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert not named & concrete, file
