"""Names on a terminal or in a log: nothing in them is a command, and everything in them can be read."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leakaudit.cli.output import Terminal, guarded, say
from leakaudit.errors import LeakauditError
from leakaudit.safety.text import clean, shown
from tests.safety.hostile import check_lines, hostile_text


@settings(max_examples=600, deadline=None)
@given(hostile_text)
@example("\udcff")
@example(" \u3000::error::")
@example("\ufeff::error::")
def test_a_line_commands_nothing(text: str) -> None:
    line = shown(text)
    check_lines(line)
    assert "\n" not in line
    assert shown(line) == line
    assert "::" not in shown(text, wrapped=True)
    check_lines(shown(text, wrapped=True))


@given(st.text(alphabet=st.characters(whitelist_categories=("L", "N", "P", "S"), blacklist_characters=":#")))
@settings(deadline=None)
def test_ordinary_names_stay_as_they_are(text: str) -> None:
    assert shown(text) == clean(text) == text


def test_what_was_there_can_be_read() -> None:
    assert shown("a\x1b[31m\tb\nc\r") == "a\\x1b[31m\\tb\\nc\\r"
    assert shown("\u202egpj\udcff\U000e0041\x85") == "\\u202egpj\\udcff\\U000e0041\\x85"
    assert shown("  ::error::x") == "  :\\:error::x"
    assert shown("std::vector") == "std::vector"
    assert shown("std::vector", wrapped=True) == "std:\\:vector"
    assert shown("a ##[error]b") == "a #\\#[error]b"
    assert clean("a\nb\tc\x00") == "a\nb\tc\\x00"


@settings(max_examples=200, deadline=None)
@given(st.lists(hostile_text, max_size=6))
@example([" ", ":", ":error::x"])
@example([":", ":error::x"])
@example(["::", "error::x"])
@example(["x", "::error::x", "\n", "::error::"])
def test_what_libraries_write_is_shown_too(pieces: list[str]) -> None:
    kept, sys.stderr = sys.stderr, io.StringIO()
    try:
        with guarded():
            for piece in pieces:
                sys.stderr.write(piece)
        written = sys.stderr.getvalue()
    finally:
        sys.stderr = kept
    for line in written.split("\n"):
        assert not line.lstrip().startswith("::"), repr(line)
        assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line), repr(line)
    assert written.count("\n") == "".join(pieces).count("\n")


def test_a_narrow_encoding_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with guarded():
        sys.stdout.write("層 é\n")
        sys.stdout.flush()
    assert raw.getvalue() == b"\\u5c64 \\xe9\n"


def test_tables_and_paragraphs_break_no_name_into_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    for length in range(60):
        name = "n" * length + "::error::x [red]\x1b[31m"
        terminal.table(name, ("layer", "rank"), [(name, None), (name, 3)])
        terminal.paragraph(f"{'w ' * length}{name}")
        terminal.line(name, head=name)
    written = capsys.readouterr().out
    check_lines(written)
    assert "[red]" in written


def test_markup_of_a_name_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().line("[bold]x[/bold] [/nothing] :smile:", head="[red]")
    say("[red]")
    assert capsys.readouterr().out == "[red][bold]x[/bold] [/nothing] :smile:\n[red]\n"


def test_a_message_is_one_line_of_some_length() -> None:
    error = LeakauditError(f"the tensor {'9' * 100_000}\nis no tensor of the model", "b" * 5000)
    assert error.message.startswith("the tensor 999")
    assert error.message.endswith("9 is no tensor of the model")
    assert max(len(error.message), len(error.hint)) < 1010
