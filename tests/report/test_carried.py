"""What a page or a PDF carries is its document, and what is changed in either is found."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leakaudit.document.carried import document_in
from leakaudit.document.schema import HASH_KEY, Report, read_document, self_hash
from leakaudit.document.verify import check_page, check_self
from leakaudit.errors import UsageError
from leakaudit.report.formats.html import render_html
from leakaudit.report.saving import Report as Saved
from tests.report.builder import build
from tests.report.conftest import Printed
from tests.report.printing import needs_pdf


@pytest.fixture(scope="module")
def report() -> Report:
    return build(victims=2, runs=1)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_html(report)


def test_a_page_carries_its_document(report: Report, page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    assert read_document(path) == json.loads(report.to_json())
    assert check_self(path).holds
    assert all(check.holds for check in check_page(path))
    assert Saved.load(path).to_json() == report.to_json()


def test_pictures_are_not_carried_twice(report: Report, page: str) -> None:
    block = page[page.index('<template id="leakaudit-document"') : page.index("</template>")]
    whole = base64.b64encode(gzip.compress(report.to_json().encode()))
    assert len(block) < 0.6 * len(whole)


def test_a_changed_page_or_picture_is_found(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.replace("3 of 4 private samples", "0 of 4 private samples"), encoding="utf-8")
    assert check_self(path).holds, "the document is as it was"
    assert not all(check.holds for check in check_page(path)), "and the page is not"
    start = page.index("data:image/png;base64,") + 200
    other = "A" if page[start] != "A" else "B"
    path.write_text(page[:start] + other + page[start + 1 :], encoding="utf-8")
    assert not check_self(path).holds or not all(check.holds for check in check_page(path))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda page: page.replace('id="leakaudit-document"', 'id="other"'),
        lambda page: page.replace("</template>", "</template>\n" + page[page.index("<template") :]),
        lambda page: page[: page.index("<template") + 300] + page[page.index("</template>") :],
    ],
)
def test_a_page_without_one_whole_document_is_refused(page: str, tmp_path: Path, spoil: Callable[[str], str]) -> None:
    path = tmp_path / "report.html"
    path.write_text(spoil(page), encoding="utf-8")
    with pytest.raises(UsageError, match="no page or PDF that carries a report"):
        check_self(path)


@needs_pdf
@pytest.mark.parametrize("variant", ["pdf/ua-1", "pdf/a-3u"])
def test_a_pdf_carries_its_document(
    small_report: Report, printed: Callable[[str], Printed], tmp_path: Path, variant: str
) -> None:
    content = printed(variant).content
    document = document_in(content)
    assert document == json.loads(small_report.to_json())
    assert document[HASH_KEY] == self_hash(document)
    path = tmp_path / "report.pdf"
    path.write_bytes(content)
    assert check_self(path).holds
    (pages,) = check_page(path)
    assert pages.holds is None, "nothing says what the pages show"
