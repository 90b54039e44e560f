"""The PDF view: the HTML templates printed by WeasyPrint, tagged as PDF/UA-1, without any request to the outside.

The bytes depend on the document alone when ``SOURCE_DATE_EPOCH`` is set: the identifier is a hash of the page, dates
come from the document, and the font library takes its date from that variable.
"""

from __future__ import annotations

import ctypes.util
import gc
import hashlib
import logging
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from leakaudit.document.carried import stream_heads
from leakaudit.document.counting import count
from leakaudit.document.schema import Report
from leakaudit.errors import first_line
from leakaudit.report.formats.base import HEAD, Format, FormatUnavailable, Rendering, ReportWarning
from leakaudit.report.formats.html import bundled_templates, render_view
from leakaudit.report.views.view import build_view

_MISSING = ".notdef glyph rendered"
"""How WeasyPrint's log begins where no font has a character; the code point is its last argument."""
PACKAGES = "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 fonts-dejavu-core"
INSTALL = "Install it by: pip install leakaudit[pdf]"
VARIANTS = ("pdf/ua-1", "pdf/a-3u")
"""The first is the default, the second is for archives. Both have report.json attached, so that it can be verified."""


def load_weasyprint() -> Any:
    """Import WeasyPrint.

    Raises:
        FormatUnavailable: It cannot be imported; says how to install what is missing.
    """
    try:
        with _asking_no_compiler():
            import weasyprint
    except ModuleNotFoundError as error:
        if error.name != "weasyprint":
            raise _unloadable(error) from error
        raise FormatUnavailable(
            f"report.pdf not written: WeasyPrint does not load (it is not installed). {INSTALL}, and on Debian or "
            f"Ubuntu: sudo apt-get install {PACKAGES}; then render again. HTML and JSON are complete."
        ) from error
    except (OSError, ImportError) as error:
        raise _unloadable(error) from error
    return weasyprint


@contextmanager
def _asking_no_compiler() -> Iterator[None]:
    """On Linux, libraries are loaded by their names alone: of each name that is none, ``ctypes`` would ask gcc and ld.

    WeasyPrint tries the names of every system, those of Linux too; what is loaded is the same.
    """
    before = ctypes.util.find_library
    if sys.platform == "linux":
        ctypes.util.find_library = lambda name: None
    try:
        yield
    finally:
        ctypes.util.find_library = before


def _unloadable(error: Exception) -> FormatUnavailable:
    """It is there, and a library that it needs is not."""
    reason = first_line(error, 160)
    return FormatUnavailable(
        f"report.pdf not written: WeasyPrint does not load ({reason}). On Debian or Ubuntu: "
        f"sudo apt-get install {PACKAGES}; then render again. HTML and JSON are complete."
    )


def make_fetcher(weasyprint: Any) -> Any:
    """A URL fetcher that answers ``data:`` and refuses every other scheme, so no file or host is ever opened."""
    from weasyprint.urls import URLFetcher

    return URLFetcher(allowed_protocols=("data",), allow_redirects=False)


def make_font_fetcher(weasyprint: Any) -> Any:
    """A URL fetcher that answers ``font:`` and the name of a font of ours, and nothing else.

    As ``data:`` within a style sheet the fonts would be megabytes of text that is read letter by letter.
    """
    from weasyprint.urls import URLFetcher, URLFetcherResponse

    class FontFetcher(URLFetcher):  # type: ignore[misc]
        """Fonts by their names."""

        def fetch(self, url: str, headers: Any = None) -> Any:
            """One of the fonts."""
            found = [font for font in our_fonts() if font.url == url]
            if not found:
                raise ValueError(f"no font of ours: {url[:80]}")
            return URLFetcherResponse(url, found[0].path.read_bytes(), {"Content-Type": "font/ttf"})

    return FontFetcher(allowed_protocols=("font",), allow_redirects=False)


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
    view = build_view(report) if view is None else view
    with _missing_glyphs_told(), _collector_at_rest(), _fonts(weasyprint) as fonts:
        page = render_view(report, view, template_dir, "pdf")
        faces = _faces(weasyprint, page, fonts)
        if _spills(weasyprint, page, variant, fonts, faces):
            page = render_view(report, view, template_dir, "pdf", long_cover=True)
        laid = _laid_out(weasyprint, page, variant, fonts, faces)
        identifier = hashlib.sha256(page.encode()).digest()[:16]
        attached = [_attachment(weasyprint, report)]
        return bytes(laid.write_pdf(pdf_variant=variant, pdf_identifier=identifier, attachments=attached))


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No garbage collection: a layout makes boxes by the hundred thousand, and keeps nearly all to its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _fonts(weasyprint: Any) -> Iterator[Any]:
    """WeasyPrint's fonts; their copies in a temporary folder go at the end, not only when nothing refers to them."""
    fonts = weasyprint.text.fonts.FontConfiguration()
    try:
        yield fonts
    finally:
        fonts.__del__()


SUMMARY_END = re.compile(r"""<[^<>]*\bid=["']summary-end["'][^<>]*>""")
"""What stands behind the summary."""


def _spills(weasyprint: Any, page: str, variant: str, fonts: Any, faces: Any) -> bool:
    """Whether the summary is longer than the first sheet, by the part of the page that ends with it.

    Nothing behind it changes how it is laid out, and to lay out everything twice would take as long again.
    """
    end = SUMMARY_END.search(page)
    if end is None:
        return False
    cover = _laid_out(weasyprint, page[: end.end()], variant, fonts, faces)
    return any("summary-end" in sheet.anchors for sheet in cover.pages[1:])


def _faces(weasyprint: Any, page: str, fonts: Any) -> Any:
    """The fonts of a page, read once for all that is laid out with them."""
    return weasyprint.CSS(string=font_faces(page), font_config=fonts, url_fetcher=make_font_fetcher(weasyprint))


def _laid_out(weasyprint: Any, page: str, variant: str, fonts: Any, faces: Any) -> Any:
    """The sheets that a page takes."""
    source = weasyprint.HTML(string=page, url_fetcher=make_fetcher(weasyprint))
    return source.render(font_config=fonts, stylesheets=[faces], pdf_variant=variant)


ASIAN = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]")
"""Chinese, Japanese and Korean: blocks of the basic plane."""
PICTURES = re.compile(
    "[\u203c\u2049\u20e3\u2139\u231a-\u23ff\u25aa-\u25ff\u2600-\u27bf\u2934-\u2935\u2b05-\u2bff\u3030\u303d\ufe0f\U0001f000-\U0001faff]"
)
"""Where Unicode has its emoji, without the arrows and signs of mathematics that the other fonts have."""


@dataclass(frozen=True)
class Font:
    """A font that a page may be set in.

    Args:
        family: As style sheets name it.
        path: Of its file.
        weight: As style sheets name it.
        where: Pages that it is loaded for; ``None`` for all.
    """

    family: str
    path: Path
    weight: str = "normal"
    where: re.Pattern[str] | None = None

    @property
    def url(self) -> str:
        """Its address within a style sheet."""
        return f"font:{self.path.name}"

    @property
    def rule(self) -> str:
        """As a rule of a style sheet."""
        return f'@font-face {{ font-family: "{self.family}"; font-weight: {self.weight}; src: url("{self.url}") }}'


@cache
def our_fonts() -> tuple[Font, ...]:
    """The fonts, the same on every machine.

    Text is set in Source Sans 3, other alphabets and code in the DejaVu fonts of matplotlib. WenQuanYi Micro Hei and
    Noto Emoji are large and are loaded only for a page that may need them.
    """
    import matplotlib as mpl

    shipped, beside = bundled_templates() / "fonts", Path(mpl.get_data_path()) / "fonts" / "ttf"
    return (
        Font("Source Sans 3", shipped / "SourceSans3-Regular.ttf"),
        Font("Source Sans 3", shipped / "SourceSans3-Bold.ttf", "bold"),
        Font("DejaVu Sans", beside / "DejaVuSans.ttf"),
        Font("DejaVu Sans", beside / "DejaVuSans-Bold.ttf", "bold"),
        Font("DejaVu Sans Mono", beside / "DejaVuSansMono.ttf"),
        Font("WenQuanYi Micro Hei", shipped / "WenQuanYiMicroHei.ttf", where=ASIAN),
        Font("Noto Emoji", shipped / "NotoEmoji.ttf", where=PICTURES),
    )


def font_faces(page: str) -> str:
    """The fonts of a page as a style sheet; they are embedded in part."""
    return "\n".join(font.rule for font in our_fonts() if font.where is None or font.where.search(page))


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
        scripts = sorted({_script(chr(point)) for point in seen.points})
        warnings.warn(
            f"report.pdf shows {count(len(seen.points), 'character')} as empty boxes, as no installed font has them "
            f"({', '.join(scripts[:5])}{', …' if len(scripts) > 5 else ''}). Install a font that does, on Debian or "
            "Ubuntu fonts-noto-core, and render again; HTML and JSON are complete.",
            ReportWarning,
            stacklevel=2,
        )


def _script(character: str) -> str:
    """What a font must know to have a character: the first word of its name, by which alphabets go."""
    if unicodedata.category(character).startswith("S"):
        return "emoji and other symbols"
    return unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]


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
    return any(b"leakaudit" in head for _, head in stream_heads(content, HEAD))


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
