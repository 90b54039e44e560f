"""The PDF view: the HTML templates printed by WeasyPrint, tagged as PDF/UA-1, without any request to the outside.

The bytes depend on the document alone when ``SOURCE_DATE_EPOCH`` is set: the identifier is a hash of the page, dates
come from the document, and the font library takes its date from that variable.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from leakaudit.document.schema import Report
from leakaudit.report.formats.base import HEAD, Format, FormatUnavailable, Rendering, ReportWarning
from leakaudit.report.formats.html import render_html, render_view

_STREAM = re.compile(rb"stream\r?\n")
_MISSING = ".notdef glyph rendered"
"""How WeasyPrint's log begins where no font has a character; the code point is its last argument."""
PACKAGES = "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 fonts-dejavu-core"
VARIANTS = ("pdf/ua-1", "pdf/a-3u")
"""The first is the default; the second is for archives and has report.json attached."""


def load_weasyprint() -> Any:
    """Import WeasyPrint.

    Raises:
        FormatUnavailable: It cannot be imported; says how to install what is missing.
    """
    try:
        import weasyprint
    except (OSError, ImportError) as error:
        reason = str(error).splitlines()[0][:160]
        raise FormatUnavailable(
            f"report.pdf not written: WeasyPrint does not load ({reason}). On Debian or Ubuntu: "
            f"sudo apt-get install {PACKAGES}; then render again. HTML and JSON are complete."
        ) from error
    return weasyprint


def make_fetcher(weasyprint: Any) -> Any:
    """A URL fetcher that answers ``data:`` and refuses every other scheme, so no file or host is ever opened."""
    from weasyprint.urls import URLFetcher

    return URLFetcher(allowed_protocols=("data",), allow_redirects=False)


def render_pdf(report: Report, template_dir: Path | None = None, view: Any = None, variant: str = VARIANTS[0]) -> bytes:
    """Render a report as PDF.

    Args:
        report: The document.
        template_dir: As for :func:`leakaudit.report.formats.html.render_html`.
        view: The view of ``report``, when it is already built.
        variant: One of :data:`VARIANTS`.

    Raises:
        FormatUnavailable: WeasyPrint or Pango is missing.
        UsageError: A template in ``template_dir`` is wrong.
    """
    weasyprint = load_weasyprint()
    page = render_html(report, template_dir, "pdf") if view is None else render_view(report, view, template_dir, "pdf")
    document = weasyprint.HTML(string=page, url_fetcher=make_fetcher(weasyprint))
    identifier = hashlib.sha256(page.encode()).digest()[:16]
    attached = [_attachment(weasyprint, report)] if variant == "pdf/a-3u" else None
    with _missing_glyphs_told():
        return bytes(document.write_pdf(pdf_variant=variant, pdf_identifier=identifier, attachments=attached))


class _Missing(logging.Handler):
    """Collects the code points that no font has a glyph for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.points: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """One record of WeasyPrint."""
        if str(record.msg).startswith(_MISSING) and isinstance(record.args, tuple) and record.args:
            point = record.args[-1]
            self.points |= {point} if isinstance(point, int) else set()


@contextmanager
def _missing_glyphs_told() -> Iterator[None]:
    """Warn of characters that are printed as empty boxes; by their scripts, since they may be of private texts."""
    seen, logger = _Missing(), logging.getLogger("weasyprint")
    logger.addHandler(seen)
    try:
        yield
    finally:
        logger.removeHandler(seen)
    if seen.points:
        scripts = sorted({unicodedata.name(chr(point), "UNNAMED").split()[0].split("-")[0] for point in seen.points})
        warnings.warn(
            f"report.pdf shows {len(seen.points)} character(s) as empty boxes, as no installed font has them "
            f"({', '.join(scripts[:5])}{', …' if len(scripts) > 5 else ''}). Install a font that does, such as "
            "fonts-noto-cjk or fonts-noto-core on Debian or Ubuntu, and render again; HTML and JSON are complete.",
            ReportWarning,
            stacklevel=2,
        )


def _attachment(weasyprint: Any, report: Report) -> Any:
    """The document itself, as the source of what the pages show."""
    created = datetime.fromisoformat(report.created)
    return weasyprint.Attachment(
        string=report.to_json(),
        name="report.json",
        description="The report as data",
        created=created,
        modified=created,
        relationship="Source",
        url_fetcher=make_fetcher(weasyprint),
    )


def _render(rendering: Rendering) -> bytes:
    return render_pdf(rendering.report, rendering.template_dir, rendering.view, rendering.pdf_variant)


def _ours(content: bytes) -> bool:
    return any(b"leakaudit" in text for text in _streams(content))


def _streams(content: bytes) -> list[bytes]:
    """The beginnings of a PDF's streams, unpacked where they are packed."""
    found = []
    for mark in _STREAM.finditer(content):
        try:
            found.append(zlib.decompressobj().decompress(content[mark.end() :], HEAD))
        except zlib.error:
            found.append(content[mark.end() : mark.end() + HEAD])
    return found


FORMAT = Format(
    name="pdf",
    file="report.pdf",
    title="pages for people, or for archives",
    render=_render,
    binary=True,
    default=True,
    pictures=True,
    ours=_ours,
    needs=load_weasyprint,
)
