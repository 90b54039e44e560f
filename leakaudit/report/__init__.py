"""The report: one versioned JSON document, and views of it (HTML, PDF)."""
