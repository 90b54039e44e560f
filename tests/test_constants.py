"""Every number that decides says where it comes from: a paper, a measurement, rounding, or that it was chosen.

Where it is said: the docstring under a constant of a module; for the default of a dataclass the entry of its ``Args``,
or a paragraph ``Defaults``; for the presets of an attack the comment above or the docstring below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("attacks", "matching", "recursion", "risk", "defences", "scoring"),
    *("audit", "sweeps", "findings", "policy", "domains", "tasks", "protocols"),
)
MODULES = [path for room in ROOMS for path in sorted((ROOT / "leakaudit" / room).rglob("*.py"))]
NEUTRAL = (0, 1)
"""Defaults that leave an option out, or count from nothing, by convention."""
SOURCE = re.compile(
    r"arXiv \d{4}\.\d{4,5}|doi 10\.\d+"  # a paper
    r"|[A-Z]\w+ (et al\.|and [A-Z]\w+),? \d{4}"
    r"|authors' (code|own|README|shipped|repository|\d+)|`breaching`"
    r"|benchmarks/[\w/]+\.(md|py)"  # a measurement, whose file is looked for
    r"|rounding|precision"  # floating point
    r"|by definition|by convention|torch's default"
    r"|chosen"  # and no more than that
)
FILES = re.compile(r"benchmarks/[\w/]+\.(?:md|py)")


def numbers(node: ast.AST) -> bool:
    """Whether a value holds a number, tables and calls included; functions and positions of items do not count."""
    if isinstance(node, ast.Lambda):
        return False
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    parts = [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node)
    return any(numbers(part) for part in parts)


def assigned(statement: ast.stmt) -> tuple[list[str], ast.expr | None]:
    """Names that a statement gives a value, and the value."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = [e for t in statement.targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
    else:
        return [], None
    return [t.id for t in targets if isinstance(t, ast.Name)], statement.value


def texts(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Statements, each with the string right below it."""
    for statement, below in zip(body, [*body[1:], None], strict=True):
        value = below.value if isinstance(below, ast.Expr) else None
        text = value.value if isinstance(value, ast.Constant) else ""
        yield statement, text if isinstance(text, str) else ""


def entries(docstring: str) -> dict[str, str]:
    """The entries of ``Args`` by name, and the paragraph ``Defaults``."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.splitlines():
        if begin := re.match(r"( {4})?(\w+): (.*)", line):
            name = begin[2]
            found[name] = begin[3]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
        else:
            name = ""
    return found


def unsourced(source: str) -> Iterator[tuple[str, str]]:
    """Numbers of a module without a source: the name, and what is said of it."""
    tree, lines = ast.parse(source), source.splitlines()
    for statement, text in texts(tree.body):
        names, value = assigned(statement)
        if value is not None and any(n.isupper() for n in names) and numbers(value) and not sourced(text):
            yield ", ".join(names), text
        if isinstance(statement, ast.ClassDef):
            yield from _of_class(statement, lines)


def _of_class(node: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str]]:
    dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    said = entries(ast.get_docstring(node) or "")
    for statement, below in texts(node.body):
        if not isinstance(statement, ast.AnnAssign) or statement.value is None or not numbers(statement.value):
            continue
        name, value = ast.unparse(statement.target), statement.value
        if name == "presets":
            text = f"{_comment(lines, statement.lineno)} {below}"
        elif dataclass and "ClassVar" not in ast.unparse(statement.annotation) and not _neutral(value):
            text = f"{said.get(name, '')} {said.get('Defaults', '')}"
        else:
            continue
        if not sourced(text):
            yield f"{node.name}.{name}", text


def _neutral(value: ast.expr) -> bool:
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    if isinstance(value, ast.Call):  # field(default=0): the numbers in it
        return all(_neutral(k.value) for k in value.keywords if numbers(k.value))
    return isinstance(value, ast.Constant) and value.value in NEUTRAL


def _comment(lines: list[str], number: int) -> str:
    """The comment right above a line."""
    above = []
    while number >= 2 and lines[number - 2].strip().startswith("#"):
        number -= 1
        above.append(lines[number - 1].strip(" #"))
    return " ".join(reversed(above))


def sourced(text: str) -> bool:
    """Whether a text names a source, and every file of ``benchmarks/`` in it exists."""
    flat = " ".join(text.split())
    return SOURCE.search(flat) is not None and all((ROOT / file).is_file() for file in FILES.findall(flat))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "leakaudit")))
def test_every_number_says_where_it_comes_from(path: Path) -> None:
    missing = [
        f"{name}: {' '.join(text.split()) or 'nothing said'}" for name, text in unsourced(path.read_text("utf-8"))
    ]
    assert not missing, "say the paper and equation, the benchmark's file, rounding, or that it was chosen"


def test_rooms_are_there() -> None:
    """A room that is renamed does not fall out of the test unseen."""
    empty = [room for room in ROOMS if not list((ROOT / "leakaudit" / room).glob("*.py"))]
    assert not empty


MODULE = dedent(
    '''
    A = 1e-3
    """How far two rows may differ."""
    B = (1, 2)
    C = 4096
    """Rows that are compared; chosen for memory."""
    D = {"float32": 1e-6}
    """Share of the largest; 8 times the precision of float32."""
    E, F = 0.5, 2
    """Weight and power (Yin et al. 2021)."""
    G = Settings(steps=3)
    """Measured (`benchmarks/results/no_such_file.md`)."""
    NAMES = ("relu", "gelu")
    lower = 3

    @dataclass(frozen=True)
    class Settings:
        """Settings.

        Args:
            weight: Of the prior.
            steps: As many as in the authors' code,
                on whatever image.
            off: Leaves it out.
            count: Of what was done.
        """

        weight: float = 1e-4
        steps: int = 300
        off: float = 0.0
        count: int = field(default=0, init=False)
        cost: ClassVar[int] = 50

    @dataclass
    class Whole:
        """Settings.

        Args:
            weight: Of the prior.

        Defaults: as in arXiv 2003.14053.
        """

        weight: float = 1e-4

    class Attack:
        presets = {}
        presets: ClassVar[dict[str, Settings]] = {"quick": Settings(steps=3)}

    class Other:
        # quick: chosen for time.
        presets: ClassVar[dict[str, Settings]] = {"quick": Settings(steps=3)}
    '''
)


def test_undocumented_numbers_are_found() -> None:
    assert [name for name, _ in unsourced(MODULE)] == ["A", "B", "G", "Settings.weight", "Attack.presets"]
