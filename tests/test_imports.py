"""The house: few modules at the top, and no import cycle, also not through lazy imports or those for type checkers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import leakaudit

PACKAGE = Path(leakaudit.__file__).parent
MOST = 8
"""Modules directly in the package; whatever belongs to a room is in it."""


def modules(package: Path) -> dict[str, Path]:
    """Every module below a package by its dotted name; a package is its ``__init__``."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a module names in any import statement, wherever that stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in known:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in known else node.module


def graph(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in known.items()}
    return {name: set(imports(tree, known)) - {name} for name, tree in trees.items()}


def cycles(edges: Mapping[str, set[str]]) -> list[set[str]]:
    """Modules that reach one another: what is left when modules that import nothing left are taken away, both ways."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        imported = {target for targets in left.values() for target in targets}
        ends = {name for name, targets in left.items() if not targets or name not in imported}
        if not ends:
            return [set(left)] if left else []
        left = {name: targets - ends for name, targets in left.items() if name not in ends}


def test_no_module_reaches_itself() -> None:
    edges = graph(PACKAGE)
    assert len(edges) > 200
    assert sum(map(len, edges.values())) > 800
    assert not cycles(edges)


def test_the_check_can_fail(tmp_path: Path) -> None:
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.room import b\n",
        "room/__init__.py": "",
        "room/b.py": "def f():\n    from house.c import g\n",
        "c.py": "import house.a\n",
        "d.py": "from house import c\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    assert cycles(graph(package)) == [{"house.a", "house.room.b", "house.c"}]
    (package / "c.py").write_text("")
    assert not cycles(graph(package))


def test_few_modules_lie_directly_in_the_package() -> None:
    names = [file.name for file in PACKAGE.glob("*.py")]
    assert "__init__.py" in names
    assert len(names) <= MOST, names
