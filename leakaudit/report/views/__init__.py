"""What the page shows, computed from the document."""
