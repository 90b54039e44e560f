"""One audit, from the request to the document."""
