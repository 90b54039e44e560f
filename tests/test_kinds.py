"""No room decides by the kind of sample but those of the domains; others ask the domain, the task or the measure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import leakaudit

PACKAGE = Path(leakaudit.__file__).parent
ROOMS = ("domains", "tasks", "scoring", "client/readers", "report/domains")
"""Where a kind of sample is at home."""
EXCEPTIONS = {
    "__init__.py": "the public surface names the domains",
    "reconstruction.py": "defines what a partial reading of token ids is, and says there what it means",
    "audit/memory.py": "stores every field of a reconstruction, whatever it is, as plain containers",
    "document/verify.py": "hashes a folder of images as its reader does",
    "target/layout.py": "the one place where the type of a file's input decides between domains",
    "target/modules.py": "reads modules: finds out what an integer input indexes",
    "target/onnx/load.py": "reads ONNX files: finds out what an integer input indexes",
    "target/tokens.py": "looks for the table of a model that is being read, and sets the length of a text model",
}
"""Modules outside these rooms that may, each with its reason."""
KINDS = {"Images", "Tokens", "ImageMeasure", "TokenMeasure", "ImageScore", "TextScore", "ReadTexts", "ImageReader"}
KINDS |= {"TokenReader", "ImageCard", "TokenCard", "TokenReading", "TokenResult"}
KINDS |= {"Several", "SeveralMeasure", "SeveralScore", "SeveralReader", "SeveralCard"}
KINDS |= {"Table", "TableMeasure", "RowScore", "ReadRows", "TableReader", "TableCard", "TableResult"}
FIELDS = {"tokens", "vocabulary", "any_length", "columns"}
"""Fields whose value, compared or tested for truth, tells the kind of sample."""
WORDS = {"images", "tokens", "table", "several"}
"""Names of kinds: a comparison with one tells the kind of sample."""
HOMES = tuple(f"leakaudit.{room.replace('/', '.')}.{kind}" for room in ROOMS for kind in sorted(WORDS))


def branches(file: Path) -> Iterator[str]:
    """Every expression of a module that tells the kind of sample, and every import of the home of one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(HOMES):
            yield f"{node.lineno}: imports {node.module}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            named = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            if named & KINDS:
                yield f"{node.lineno}: isinstance of {sorted(named & KINDS)}"
        for tested in _tested(node):
            yield f"{tested.lineno}: tests {ast.unparse(tested)}"


def _tested(node: ast.AST) -> Iterator[ast.expr]:
    """Fields that are compared with a constant or whose truth decides, and whatever is compared with a kind's name."""
    candidates: list[ast.expr] = []
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        constants = [side.value for side in sides if isinstance(side, ast.Constant)]
        if WORDS & set(constants):
            yield node
        candidates = sides if constants else []
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        candidates = [node.test]
    elif isinstance(node, ast.BoolOp):
        candidates = node.values
    elif isinstance(node, ast.comprehension):
        candidates = node.ifs
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        candidates = [node.operand]
    yield from (c for c in candidates if isinstance(c, ast.Attribute) and c.attr in FIELDS)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if not room_of(f).startswith(tuple(f"{r}/" for r in ROOMS))]


def test_every_other_room_is_read() -> None:
    assert len(FILES) > 150
    assert {room_of(f).split("/")[0] for f in FILES} >= {"attacks", "audit", "client", "findings", "report", "sweeps"}


@pytest.mark.parametrize("file", FILES, ids=room_of)
def test_no_branch_on_the_kind_of_sample(file: Path) -> None:
    found = list(branches(file))
    if room_of(file) in EXCEPTIONS:
        assert found, f"{room_of(file)} needs no exception: take it off the list"
    else:
        assert not found


@pytest.mark.parametrize(
    "source",
    [
        "if target.tokens is not None: pass",
        "x = 1 if sample.tokens else 2",
        "x = [s for s in samples if s.tokens is None]",
        "x = report.target.vocabulary is None",
        "x = not target.tokens or y",
        "x = target.domain.kind == 'tokens'",
        "x = isinstance(measure, TokenMeasure)",
        "x = isinstance(domain, (Images, int))",
        "from leakaudit.scoring.tokens import TokenMeasure",
    ],
)
def test_the_check_can_fail(source: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(source)
    assert list(branches(tmp_path / "module.py"))
