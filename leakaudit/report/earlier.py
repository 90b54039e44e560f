"""Files that an earlier run left in the report's folder: whether they are leakaudit's, and what they say.

A file is taken for leakaudit's by its content, never by its name alone: whoever passes ``--out .`` keeps a
``report.pdf`` or ``scores.csv`` of their own.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

_STREAM = re.compile(rb"stream\r?\n")
_HEAD = 65536
"""Bytes of a file, or of a stream in it, that are looked at."""


def is_ours(path: Path) -> bool:
    """Whether this is a file that leakaudit wrote under this name."""
    if not path.is_file() or path.is_symlink():
        return False
    try:
        content = path.read_bytes()
    except OSError:
        return False
    if path.suffix == ".pdf":
        return any(b"leakaudit" in text for text in _streams(content))
    if path.suffix == ".json":
        return isinstance(_document(path).get("tool"), dict) and _document(path)["tool"].get("name") == "leakaudit"
    marks = {
        ".html": b'<meta name="generator" content="leakaudit ',
        ".sarif": b'"name": "leakaudit"',
        ".xml": b'name="leakaudit',
        ".md": b"## leakaudit: ",
        ".csv": b"attack,threat_model,upper_bound,victim,sample,leaked,",
    }
    mark = marks.get(path.suffix)
    return mark is not None and mark in content[:_HEAD]


def is_partial(path: Path) -> bool:
    """Whether this is the report.json of an interrupted audit."""
    return is_ours(path) and bool(_document(path).get("partial"))


def is_redundant_failure(path: Path) -> bool:
    """Whether this is a SARIF or JUnit file that only says that an audit failed."""
    content = path.read_bytes() if path.is_file() else b""
    failed = b'"executionSuccessful": false' in content and b'"results": []' in content
    return is_ours(path) and (failed or b'<error type="could not audit"' in content)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _streams(content: bytes) -> list[bytes]:
    """The beginnings of a PDF's streams, unpacked where they are packed."""
    found = []
    for mark in _STREAM.finditer(content):
        try:
            found.append(zlib.decompressobj().decompress(content[mark.end() :], _HEAD))
        except zlib.error:
            found.append(content[mark.end() : mark.end() + _HEAD])
    return found
