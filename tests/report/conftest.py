"""A small report, and its PDF in both variants, printed once for all tests: printing takes seconds."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest

from leakaudit.document.schema import Report
from leakaudit.report.formats import pdf
from leakaudit.report.formats.base import ReportWarning
from tests.report.builder import build


@dataclass(frozen=True)
class Printed:
    """A PDF, the beginnings of the addresses that printing asked for, and the warnings and errors that it gave."""

    content: bytes
    asked: frozenset[str]
    told: tuple[str, ...]


@contextmanager
def errors() -> Iterator[list[str]]:
    """What WeasyPrint logs as an error."""
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("weasyprint")
    logger.addHandler(handler)
    try:
        yield logged
    finally:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def small_report() -> Report:
    """One victim of one attack; nobody may change it."""
    return build(victims=1, runs=1)


@pytest.fixture(scope="session")
def printed(small_report: Report) -> Callable[[str], Printed]:
    """Prints `small_report` as a variant of PDF, with SOURCE_DATE_EPOCH set."""

    @cache
    def once(variant: str) -> Printed:
        asked: set[str] = set()
        made = pdf.make_fetcher

        def recording(weasyprint: object) -> object:
            fetcher = made(weasyprint)
            fetch = fetcher.fetch
            fetcher.fetch = lambda url, headers=None: asked.add(url[:15]) or fetch(url, headers)
            return fetcher

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as seen, errors() as logged:
            warnings.simplefilter("ignore")  # WeasyPrint leaves its profile open
            warnings.simplefilter("always", ReportWarning)
            patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
            patch.setattr(pdf, "make_fetcher", recording)
            content = pdf.render_pdf(small_report, variant=variant)
            gc.collect()
        return Printed(content, frozenset(asked), (*(str(warning.message) for warning in seen), *logged))

    return once
