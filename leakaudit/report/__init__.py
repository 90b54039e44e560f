"""The report: one versioned JSON document, and views of it (HTML, PDF)."""

from leakaudit.document.schema import Report

__all__ = ["Report"]
