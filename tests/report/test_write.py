"""Writing: complete or not at all, private, reproducible, and useful without the PDF libraries."""

from __future__ import annotations

import json
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leakaudit.errors import UsageError
from leakaudit.report.formats import pdf
from leakaudit.report.formats.base import ReportWarning
from leakaudit.report.saving import Report
from leakaudit.report.write import write_report
from tests.report.builder import build
from tests.report.conftest import Printed
from tests.report.printing import needs_pdf


@pytest.fixture
def report(small_report: Report) -> Report:
    return small_report


def test_files_are_complete_and_private(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    written = write_report(report, folder, ("json", "html"))
    assert written == [folder / "report.html", folder / "report.json"]
    assert Report.load(folder / "report.json") == report
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "report.html", "report.json"]


def test_a_failed_run_leaves_the_older_report_untouched(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"report.html": b"old page", "report.pdf": b"old pdf", "report.json": b"{}"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)

    def fail(*_: object) -> bytes:
        raise RuntimeError("printing failed")

    monkeypatch.setattr(pdf, "render_pdf", fail)
    with pytest.raises(RuntimeError, match="printing failed"):
        write_report(report, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_on_disk_before_all_is_rendered(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(*_: object) -> bytes:
        seen.extend(path.name for path in tmp_path.iterdir())
        return b"%PDF"

    monkeypatch.setattr(pdf, "render_pdf", spy)
    write_report(report, tmp_path)
    assert seen == []


def test_an_older_report_is_replaced(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}", encoding="utf-8")
    write_report(report, tmp_path, ("json",))
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["seed"] == report.seed


def test_without_pango_the_rest_is_written(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    (tmp_path / "report.pdf").write_bytes(b"old")
    with pytest.warns(ReportWarning, match=r"libpango-1\.0-0.*from an earlier audit"):
        written = write_report(report, tmp_path)
    assert [path.name for path in written] == ["report.html", "report.json"]


@needs_pdf
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # WeasyPrint leaves its profile open
def test_characters_that_no_font_has_are_said_by_their_scripts(printed: Callable[[str], Printed]) -> None:
    strange = "\U0001201f\U00012020\U00013080"  # cuneiform and hieroglyphs, which DejaVu and Noto Sans lack
    named = build(victims=0, runs=0, findings=[])
    named.rank.layers, named.target.name = [], f"net {strange}"
    with pytest.warns(ReportWarning, match=r"shows 3 characters as empty boxes.*\(CUNEIFORM, EGYPTIAN\)") as seen:
        pdf.render_pdf(named)
    assert not any(character in str(seen[0].message) for character in strange), "they may be of private texts"
    assert not printed("pdf/ua-1").told, "a report in usual characters is printed without a word"


def test_a_folder_that_cannot_be_written_is_a_usage_error(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot write the report") as caught:
        write_report(report, tmp_path / "file" / "report")
    assert caught.value.exit_code == 2


def test_an_unknown_format_is_a_usage_error(report: Report, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="docx"):
        write_report(report, tmp_path / "out", ("docx",))
    assert not (tmp_path / "out").exists()


@needs_pdf
def test_the_pdf_is_tagged_titled_numbered_and_reproducible(
    report: Report,
    printed: Callable[[str], Printed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = pdf.render_pdf(report)
    assert first == printed("pdf/ua-1").content
    pypdf = pytest.importorskip("pypdf")
    import io

    reader = pypdf.PdfReader(io.BytesIO(first))
    root = reader.trailer["/Root"]
    assert reader.metadata.title == "Leak audit of cnn6-d"
    assert root["/Lang"] == "en"
    assert root["/MarkInfo"]["/Marked"]
    assert "pdfuaid" in root["/Metadata"].get_object().get_data().decode()
    kinds = [(str(node["/S"]), str(node.get("/Alt", ""))) for node in _structure(root["/StructTreeRoot"])]
    figures = [alternative for kind, alternative in kinds if kind == "/Figure"]
    assert len(figures) > 4
    assert all(figures), "every picture has an alternative text"
    assert {"/H1", "/H2", "/H3", "/Table", "/TH", "/TD", "/L", "/LI"} <= {kind for kind, _ in kinds}
    pages = [page.extract_text() for page in reader.pages]
    assert report.verdict.headline.split()[0] in pages[0]
    for number, text in enumerate(pages, 1):
        assert f"{number} / {len(pages)}" in text
        assert len(text) > 300, f"page {number} is nearly empty"


def _structure(node: Any) -> Iterator[Any]:
    """Every element of a tagged PDF's structure."""
    children = node.get_object().get("/K", [])
    for child in children if isinstance(children, list) else [children]:
        element = child.get_object() if hasattr(child, "get_object") else child
        if isinstance(element, dict) and "/S" in element:
            yield element
            yield from _structure(element)


@needs_pdf
def test_the_pdf_opens_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weasyprint = pdf.load_weasyprint()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"")
    fetcher = pdf.make_fetcher(weasyprint)
    for address in (secret.as_uri(), "http://localhost:9/x", "https://localhost:9/x", "ftp://localhost/x"):
        with pytest.raises(ValueError, match="disallowed protocol"):
            fetcher.fetch(address)
    assert fetcher.fetch("data:text/plain,yes").read() == b"yes"
    with pytest.raises(ValueError, match="disallowed protocol"):
        fetcher.fetch("font:DejaVuSans.ttf")
    fonts = pdf.make_font_fetcher(weasyprint)
    for address in (secret.as_uri(), f"font:{secret}", "font:../report.css", "data:text/plain,yes", "http://localhost"):
        with pytest.raises(ValueError, match="no font of ours"):
            fonts.fetch(address)
    assert fonts.fetch("font:DejaVuSans.ttf").read()[:4] == b"\0\1\0\0"


@needs_pdf
def test_the_page_of_the_pdf_asks_for_data_only(printed: Callable[[str], Printed]) -> None:
    assert printed("pdf/ua-1").asked == {"data:image/png;"}


@needs_pdf
def test_the_archive_pdf_holds_the_document(report: Report, printed: Callable[[str], Printed]) -> None:
    import io

    pypdf = pytest.importorskip("pypdf")
    reader = pypdf.PdfReader(io.BytesIO(printed("pdf/a-3u").content))
    assert reader.attachments["report.json"] == [report.to_json().encode()]
    metadata = reader.trailer["/Root"]["/Metadata"].get_object().get_data().decode()
    assert re.search(r"pdfaid:part(>|=\")3", metadata)
    assert re.search(r"pdfaid:conformance(>|=\")U", metadata)
    files = [entry.get_object() for entry in reader.trailer["/Root"]["/AF"]]
    assert {"/Source"} <= {str(file["/AFRelationship"]) for file in files}
