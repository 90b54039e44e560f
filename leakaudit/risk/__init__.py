"""Static risk of an architecture: what algebra says before any attack runs."""
