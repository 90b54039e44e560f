"""Tests that print a PDF skip where the libraries for it are missing."""

from __future__ import annotations

import pytest

from leakaudit.report.formats import pdf


def _weasyprint_loads() -> bool:
    try:
        pdf.load_weasyprint()
    except pdf.FormatUnavailable:
        return False
    return True


needs_pdf = pytest.mark.skipif(not _weasyprint_loads(), reason="WeasyPrint or Pango is not installed")
