"""The tests are laid out as the package is, and no file of tests needs another one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import leakaudit
from tests.conftest import ROOT

PACKAGE = Path(leakaudit.__file__).parent
TESTS = Path(__file__).parent
OF_ALL = "fuzz"
"""The folder of what is done to the files of every room."""


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file of tests imports from `tests`, relative imports resolved."""
    here = path.relative_to(TESTS.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*here[: -node.level], *filter(None, [node.module]))) if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)


def names_a_test_module(name: str) -> bool:
    return name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))


def names_of_tests(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")]


def test_no_file_of_tests_imports_another_one() -> None:
    found = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imported(path)
        if names_a_test_module(name)
    ]
    assert not found, "builders belong into conftest.py or a module beside it that is no test"


@pytest.mark.parametrize(
    "line",
    [
        "from tests.cli.test_scan import model",
        "from tests.cli import test_scan",
        "import tests.cli.test_scan as scan",
        "from .test_scan import model",
        "from . import test_scan",
        "from ..cli.test_scan import model",
    ],
)
def test_such_an_import_would_be_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.TESTS", tmp_path / "tests")
    path = tmp_path / "tests" / "cli" / "test_other.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert any(map(names_a_test_module, imported(path)))


def test_every_room_has_its_tests_and_every_folder_of_tests_its_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert not rooms - folders, "rooms without tests"
    others = {name for name in folders - rooms - {OF_ALL} if not (ROOT / name).is_dir()}
    assert not others, "folders of tests that are no room of the package and no folder of the repository"


def test_every_test_is_collected_and_every_file_of_tests_has_one() -> None:
    hidden = {
        p.name: names_of_tests(p) for p in TESTS.rglob("*.py") if not p.name.startswith("test_") and names_of_tests(p)
    }
    assert not hidden, "tests in modules that pytest does not collect"
    assert not [path.name for path in TESTS.rglob("test_*.py") if not names_of_tests(path)]
