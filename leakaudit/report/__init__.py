"""The report: one versioned JSON document, and views of it (HTML, PDF)."""

from leakaudit.report.document import Report

__all__ = ["Report"]
