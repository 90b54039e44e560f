"""Every tutorial, followed to the letter: its Python and its command lines in their order, in one empty folder."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.build import leakaudit
from tests.conftest import ROOT
from tests.pages import TUTORIALS

AFTER = {"first-gate.md": "first-audit.md"}
"""A tutorial that goes on with the files of another."""
CODES = {"scan": (0, 1, 5), "compare": (0, 1)}
"""Exit codes of commands that did what they should, where a page states none."""


def steps(page: str) -> Iterator[tuple[str, str]]:
    """Blocks of Python and TOML, and command lines, in their order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for found in re.finditer(r"^```(python|toml)\n(.*?)^```|^    (leakaudit [^\n]*)$", text, re.DOTALL | re.M):
        yield (found[1], found[2]) if found[1] else ("line", found[3])


def python(block: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(block, {"__name__": "tutorial"})


def line(text: str) -> tuple[int, str]:
    words = shlex.split(text)[1:]
    code, out, err = leakaudit(*words)
    assert code in CODES.get(words[0], (0,)), f"{text}\n{out}\n{err}"
    assert "Error:" not in err
    return code, out + err


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_it_goes_as_it_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "GITHUB_STEP_SUMMARY", "LEAKAUDIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for kind, block in steps(AFTER[page]) if page in AFTER else ():
        if kind == "python":
            python(block)
    ended: dict[str, tuple[int, str]] = {}
    for kind, block in steps(page):
        if kind == "python":
            python(block)
        elif kind == "toml":
            with Path("leakaudit.toml").open("a", encoding="utf-8") as policy:
                policy.write(block)
        else:
            ended[block] = line(block)
    said(page, ended)


def said(page: str, ended: dict[str, tuple[int, str]]) -> None:
    """What the pages say of the outcome."""
    scans = [result for text, result in ended.items() if text.startswith("leakaudit scan")]
    if page == "first-audit.md":
        assert scans[0][0] == 1
        assert "LEAKS (measured)" in scans[0][1]
    elif page == "first-gate.md":
        assert [code for code, _ in scans] == [1, 0, 0]
        assert "baseline" in scans[2][1]
        assert Path("leakaudit-report/report.md").is_file()
    else:
        assert scans[1][0] == 1
        assert "4 of 4" in scans[1][1]
