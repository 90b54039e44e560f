"""Statuses are enums and cuts are fields: nothing decides by what a sentence says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import leakaudit

PACKAGE = Path(leakaudit.__file__).parent
ROOMS = ("audit", "cli", "document", "findings", "policy", "report", "scoring", "sweeps")
FILES = sorted(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py"))
READERS = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "find", "index"}
READERS |= {"fullmatch", "match", "search", "count"}
"""Methods by which code reads a text."""
SENTENCES = {"reason", "notes", "stopped", "told", "detail", "headline", "message", "score_reason", "partial", "status"}
"""Fields that hold sentences, or words that are members of an enum."""
EXCEPTIONS = {
    "audit/cache.py": "names of modules",
    "audit/kinds.py": "words of options, as ATTACK.KEY=VALUE",
    "cli/options/request.py": "the documentation of a parameter, and quotes around an error",
    "cli/output.py": "commands of a CI system in what is printed",
    "cli/scan.py": "words of the command line",
    "document/command.py": "words of a recorded command",
    "document/earlier.py": "the one reader of sentences, of documents whose version had no fields for them",
    "document/paths.py": "paths in texts",
    "document/redact.py": "the data of a data URI",
    "policy/read.py": "prefixes of rule ids",
    "report/formats/pdf.py": "WeasyPrint's own log records",
    "report/ignoring.py": "names of files, and the first line of one's own",
    "report/formats/csv.py": "cells that a spreadsheet would compute",
    "report/views/svg.py": "declarations of a style",
    "report/wording.py": "signs of numbers",
    "scoring/perceptual.py": "names of tensors",
    "sweeps/places.py": "URLs, and names of files",
    "sweeps/runners/on_ray.py": "names of its own folders",
    "sweeps/store.py": "names of its own files",
}
"""Modules that read texts which are no sentences of the document, each with what they are."""


def readings(tree: ast.AST) -> Iterator[str]:
    """Calls that read a text, and comparisons of a sentence with a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
            literals = [n for a in node.args for n in ast.walk(a) if isinstance(n, ast.Constant)]
            if node.func.attr in {"startswith", "endswith"} or any(isinstance(n.value, str) for n in literals):
                yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = [s for s in sides if isinstance(s, ast.Constant) and isinstance(s.value, str) and s.value]
            if words and any(isinstance(s, ast.Attribute) and s.attr in SENTENCES for s in sides):
                yield f"{node.lineno}: {ast.unparse(node)}"


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 80
    assert set(EXCEPTIONS) <= {room_of(file) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=room_of)
def test_nothing_decides_by_a_sentence(file: Path) -> None:
    found = list(readings(ast.parse(file.read_text(encoding="utf-8"))))
    if room_of(file) in EXCEPTIONS:
        assert found, f"{room_of(file)} needs no exception: take it off the list"
    else:
        assert not found


@pytest.mark.parametrize(
    "source",
    [
        "x = note.startswith(PLANNED)",
        "x = attack.reason.startswith(('time budget', 'interrupted'))",
        "x = attack.status == 'run'",
        "x = 'time budget' in attack.reason",
        "x = re.match('stopped', result.stopped)",
        "x = verdict.status.partition(' (')[0]",
    ],
)
def test_the_check_can_fail(source: str) -> None:
    assert list(readings(ast.parse(source)))
