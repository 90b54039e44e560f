"""Names of sixty characters, in other alphabets, and names that are commands: whole, readable, and never executed."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from leakaudit.report.formats import pdf
from leakaudit.report.formats.base import ReportWarning
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import bundled_templates, render_html, render_view
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.formats.markdown import render_markdown
from leakaudit.report.formats.sarif import render_sarif
from leakaudit.report.views.view import build_view
from leakaudit.report.wording import clip
from leakaudit.safety.text import clean, shown
from tests.cli.build import leakaudit
from tests.cli.named_model import write_model
from tests.report.names import NAMES, PICTURED, PLAIN, named, named_table
from tests.report.page import Page
from tests.report.printing import needs_pdf
from tests.safety.hostile import check_lines

FORMATS = ("-f", "html", "-f", "sarif", "-f", "junit", "-f", "markdown", "-f", "csv")
SHIPPED = ("Source Sans 3", "DejaVu Sans", "DejaVu Sans Mono", "WenQuanYi Micro Hei", "Noto Emoji")
"""Families of which a PDF is set on every machine."""
UNITS = 0.75
"""Points of a pixel of CSS, in which WeasyPrint lays out."""


def flat(text: str) -> str:
    """Text without spaces, which may stand anywhere after a line was broken."""
    return re.sub(r"\s+", "", text)


def rotated(first: str) -> list[str]:
    """All names, beginning with this one, so that it is the model's."""
    names = list(NAMES.values())
    at = names.index(first)
    return names[at:] + names[:at]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(named(list(NAMES.values()))))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_page_shows_every_name_whole(page: Page, name: str) -> None:
    text = flat(page.text)
    assert text.count(flat(clean(name))) >= 5, "as class, layer, tensor, and in lists"
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]


def test_a_table_shows_every_column_whole() -> None:
    text = flat(Page(render_html(named_table(list(NAMES.values())))).text)
    assert all(text.count(flat(clean(name))) >= 2 for name in NAMES.values())


def test_charts_keep_the_letters_of_every_alphabet() -> None:
    markup = render_html(named([PLAIN["Arabic"], PLAIN["Hebrew"], PLAIN["Cyrillic"], *PICTURED.values()]))
    drawn = " ".join(re.findall(r"<svg.*?</svg>", markup, re.DOTALL))
    for name in (PLAIN["Arabic"], PLAIN["Hebrew"], PLAIN["Cyrillic"], *PICTURED.values()):
        assert name[:6] in drawn
    assert "???" not in drawn


def test_what_gets_no_shorter_is_not_cut() -> None:
    for longest in (40, 30):
        assert clip(PLAIN["sixty"], longest) == PLAIN["sixty"]
    assert len(clip("a " * 200, 40)) < 100


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_files_for_machines_hold_the_name_and_no_command(name: str) -> None:
    report = named(rotated(name))
    results = json.loads(render_sarif(report))["runs"][0]["results"]
    said = flat(" ".join(result["message"]["text"] for result in results)).replace("\\", "")
    assert flat(clean(name)).replace("\\", "") in said
    tree = ElementTree.fromstring(render_junit(report))
    texts = [t for element in tree.iter() for t in (element.text or "", *element.attrib.values())]
    assert any(flat(clean(name)).replace("\\", "") in flat(text).replace("\\", "") for text in texts)
    rows = list(csv.reader(io.StringIO(render_csv(report))))
    for text in (*texts, *(cell for row in rows for cell in row), render_markdown(report)):
        check_lines(text)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "\t"))]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_markdown_shows_the_name_as_text(name: str) -> None:
    markdown = pytest.importorskip("markdown", reason="Markdown is not installed")
    page = Page(markdown.markdown(render_markdown(named(rotated(name))), extensions=["tables"]))
    assert flat(" ".join(clean(name).split())) in flat(page.text).replace("\\", "") or "\\" in clean(name)
    assert not {"script", "img", "a", "style", "iframe"} & {tag for tag, _ in page.tags}


def test_a_terminal_and_a_job_page_show_them_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "report.json").write_text(named(list(NAMES.values())).to_json(), encoding="utf-8")
    code, out, err = leakaudit("render", tmp_path / "report.json", "-o", tmp_path / "out", *FORMATS)
    assert code in (0, 1), err
    for text in (out, err, (tmp_path / "summary.md").read_text(encoding="utf-8")):
        check_lines(text)
    monkeypatch.setenv("COLUMNS", "240")
    for place, name in enumerate(NAMES[kind] for kind in ("Arabic", "markup", "command", "escapes")):
        model = write_model(tmp_path / f"{place}.onnx", [name.replace("\x00", "")])
        code, out, err = leakaudit("rank", model)
        check_lines(out + err)
        told = flat(shown(name.replace("\x00", ""))).replace("\\", "")
        assert told in flat(out).replace("\\", "").replace("%25", "%"), err  # a % in a tensor's name is written so


# On paper


def laid_out(report: Any) -> tuple[Any, list[str]]:
    """The sheets of a report, and the warnings of its characters."""
    weasyprint = pdf.load_weasyprint()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pdf._missing_glyphs_told(), pdf._fonts(weasyprint) as fonts:
            page = render_view(report, build_view(report), None, "pdf")
            faces = pdf._faces(weasyprint, page, fonts)
            laid = pdf._laid_out(weasyprint, page, pdf.VARIANTS[0], fonts, faces)
            laid.write_pdf()  # characters are looked up in fonts only now
    return laid, [str(w.message) for w in seen if issubclass(w.category, ReportWarning)]


def lines(laid: Any) -> Iterator[tuple[int, Any, Any]]:
    """Every piece of text of the sheets: the number of its page, the page's box, and its own."""
    for number, sheet in enumerate(laid.pages, 1):
        box = sheet._page_box
        for piece in box.descendants():
            if hasattr(piece, "text") and piece.text.strip():
                yield number, box, piece


@pytest.mark.parametrize("name", PICTURED.values(), ids=PICTURED)
def test_the_large_fonts_are_loaded_where_a_page_needs_them_and_have_every_character(name: str) -> None:
    from fontTools.ttLib import TTFont

    fonts = bundled_templates() / "fonts"
    known = {
        "WenQuanYi Micro Hei": TTFont(fonts / "WenQuanYiMicroHei.ttf").getBestCmap(),
        "Noto Emoji": TTFont(fonts / "NotoEmoji.ttf").getBestCmap(),
    }
    needed = {family for family, points in known.items() if any(ord(c) in points for c in name if ord(c) > 127)}
    assert {family for family in known if family in pdf.font_faces(name)} == needed
    assert all(any(ord(character) in points for points in known.values()) for character in name if ord(character) > 127)
    assert not [family for family in known if family in pdf.font_faces("lungs Отделение جناح")]


@needs_pdf
@pytest.mark.slow
@pytest.mark.parametrize("made", [named, named_table])
def test_on_paper_no_name_is_cut_and_no_glyph_is_missing(made: Any) -> None:
    laid, told = laid_out(made(list(NAMES.values())))
    text = ""
    for number, box, piece in lines(laid):
        text += piece.text
        right = piece.position_x + piece.width
        assert piece.position_x >= -0.5, (number, piece.text)
        assert right <= box.margin_width() + 0.5, (number, piece.text)
        if piece.position_y > box.margin_top and piece.position_y < box.margin_height() - box.margin_bottom:
            assert right <= box.margin_width() - box.margin_right + 1, (number, piece.text)
    for name in NAMES.values():
        assert flat(clean(name)).replace("--", "-") in flat(text).replace("\u2060", "").replace("\u200b", "").replace(
            "--", "-"
        ), name
    assert told == []
    assert {font.family for font in laid.fonts.values()} <= set(SHIPPED)
