"""The PDF as pages: how many, in which fonts, with nothing cut, nothing split apart, and no glyph missing."""

from __future__ import annotations

import gc
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from leakaudit.document.schema import Report
from leakaudit.document.status import VerdictStatus
from leakaudit.report.formats import pdf
from tests.report.builder import build
from tests.report.conftest import Printed
from tests.report.printing import needs_pdf

pypdf: Any = pytest.importorskip("pypdf", reason="pypdf reads the printed pages")
pytestmark = needs_pdf
FONTS = {"Source-Sans-3", "Source-Sans-3-Bold", "Source-Sans-3-Oblique", "DejaVu-Sans", "DejaVu-Sans-Mono"}
LONG_NAME = "Ward for the observation of contagious diseases, north wing X"


def leaking() -> Report:
    """The kind of the demo: four victims of one sample, one attack."""
    return build(victims=4, runs=1)


def nothing_leaked() -> Report:
    """Thirty-two samples under three attacks, none recovered."""
    report = build(victims=4, runs=3, batch=8, findings=build().findings[1:])
    for sample in (s for a in report.attacks for r in a.results for s in r.samples):
        sample.leaked, sample.reidentified = False, False
    report.verdict = report.verdict.model_copy(
        update={
            "status": "NOT SHOWN (budget)", "code": VerdictStatus.NOT_SHOWN, "severity": "medium",
            "headline": "No reconstruction was shown with the 'quick' budget",
            "at_least": "Nothing beyond the labels.",
        }
    )  # fmt: skip
    return report


def read_by_many() -> Report:
    """Two victims that six attacks read, each with a finding of its own."""
    report = build(victims=2, runs=1)
    first, found = next(a for a in report.attacks if a.results), report.findings[0]
    names = [f"attack{n}" for n in range(6)]
    report.attacks = [
        *(first.model_copy(update={"name": name, "title": f"{name.title()} (a way of reading)"}) for name in names),
        *(a for a in report.attacks if not a.results),
    ]
    report.findings = [found.model_copy(update={"evidence": {**found.evidence, "attack": n}}) for n in names]
    report.findings += [found.model_copy(update={"severity": "medium", "fails": False})] * 2
    return report


def named(*names: str) -> Report:
    """A small report whose classes are called so."""
    report = build(victims=2, runs=1)
    report.batch.class_names = [*names, *(f"class {n}" for n in range(len(names), 10))]
    return report


def printed_now(report: Report) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        content = pdf.render_pdf(report)
        gc.collect()
    return pypdf.PdfReader(io.BytesIO(content))


def texts(reader: Any) -> list[str]:
    return [page.extract_text() for page in reader.pages]


def appendix_page(reader: Any) -> int:
    """The page on which the appendix begins, from 1."""
    return next(n for n, text in enumerate(texts(reader), 1) if re.search(r"^\s*Appendix\s*$", text, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize(("made", "most"), [(leaking, 8), (nothing_leaked, 10), (read_by_many, 9)])
def test_the_body_has_five_pages_and_all_of_it_is_short(made: Callable[[], Report], most: int) -> None:
    reader = printed_now(made())
    assert len(reader.pages) <= most
    assert appendix_page(reader) <= 6, "the body has five pages at most"
    for page in texts(reader)[:-1]:
        assert len(page.split()) > 60, "no page but the last is nearly empty"


def test_the_first_page_is_the_summary(printed: Callable[[str], Printed]) -> None:
    reader = pypdf.PdfReader(io.BytesIO(printed("pdf/ua-1").content))
    first, *others = texts(reader)
    for heading in ("How likely", "What to do first", "What was not tested", "At least", "At most", "Assumed"):
        assert heading in first
    for digest in ("3f" * 32, "a9" * 32):
        assert digest in first.replace("\n", "")
    assert "What was not tested" not in others[0]


def test_a_summary_that_spills_is_told_by_itself_and_all_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out, seen = pdf._laid_out, []

    def noting(weasyprint: Any, page: str, *more: Any) -> Any:
        laid = laid_out(weasyprint, page, *more)
        seen.append((page, [sorted(sheet.anchors) for sheet in laid.pages]))
        return laid

    monkeypatch.setattr(pdf, "_laid_out", noting)
    report = leaking()
    report.verdict.assumed = [f"assumption {n}: {'what the client is taken to do, ' * 8}" for n in range(9)]
    printed_now(report)
    (cover, spilt), (page, sheets) = seen
    assert cover.endswith('<span id="summary-end">')
    assert any("summary-end" in anchors for anchors in spilt[1:])
    assert " long-cover" not in cover
    assert " long-cover" in page
    assert len(sheets) > len(spilt)


def test_the_fonts_are_ours_and_embedded(printed: Callable[[str], Printed]) -> None:
    reader = pypdf.PdfReader(io.BytesIO(printed("pdf/ua-1").content))
    embedded, other = reader.pages[0]._get_fonts()
    for page in reader.pages[1:]:
        more, rest = page._get_fonts()
        embedded, other = embedded | more, other | rest
    assert embedded
    assert {re.sub(r"^/?[A-Z]{6}\+", "", name).rstrip(",") for name in embedded} <= FONTS | {"DejaVu-Sans-Bold"}
    assert not other


@pytest.mark.slow
def test_names_in_other_alphabets_are_shown_right() -> None:
    names = ("جناح الأطفال", "מחלקת ילדים", "Отделение", LONG_NAME)
    reader = printed_now(named(*names))
    text = " ".join(texts(reader)).replace("\n", " ")
    assert "Отделение" in text
    assert LONG_NAME.split(",")[0] in text
    letters = set(re.findall("[\u0590-\u06ff\ufb50-\ufeff]", text))
    assert len(letters) > 10, "Arabic and Hebrew letters have glyphs"
