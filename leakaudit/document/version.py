"""The version of leakaudit, which every document states; the one place that says it."""

__version__ = "0.1.0"
