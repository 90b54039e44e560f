"""What Python compiles while a test runs: an audit hook that looks for a text in every piece of source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_watched: dict[str, list[str]] = {}
"""Sources compiled so far, by the text that they contain."""


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "compile" and _watched:
        source = arguments[0].decode("utf-8", "replace") if isinstance(arguments[0], bytes) else str(arguments[0])
        for text, found in _watched.items():
            if text in source:
                found.append(source)


sys.addaudithook(_hook)  # such a hook stays for good; it does nothing outside `compiled`


@contextmanager
def compiled(text: str) -> Iterator[list[str]]:
    """The sources that Python compiles inside and that contain a text."""
    _watched[text] = []
    try:
        yield _watched[text]
    finally:
        del _watched[text]
