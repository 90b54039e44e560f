"""The pages of the documentation, and the command lines in them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")])

TUTORIALS = ("first-audit.md", "first-gate.md", "first-round.md")
"""Pages that are followed as a whole; their lines need the files of the steps before."""


def command_lines(page: Path) -> list[str]:
    """Lines of code blocks that call the program, continued ones in one piece."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and (
            call := re.match(r"\s*(?:- |\$ )?(leakaudit [a-z-]+( .*)?)$", line)
        ):
            found.append(call[1])
    return found


def calls() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in command_lines(page)]
