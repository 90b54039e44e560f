"""The document inside its views: a page or a PDF carries ``report.json``, so that it can be verified and shown again.

A page carries it packed in an inert ``<template>`` at its end, beside a hash over the rest of the page. Pictures that
stand in the page are not carried twice: the packed document names them by their order. A PDF has it attached.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
_QUOTED = re.compile(rf'"({_PICTURE.pattern})"')
_NAMED = re.compile(r'"page-picture:(\d{1,9})"')
_BLOCK = re.compile(
    r'<template id="leakaudit-document" data-page-sha256="([0-9a-f]{64})">\n([A-Za-z0-9+/=\n]*)</template>\n'
)
_STREAM = re.compile(rb"stream\r?\n")
_PAGE, _PDF, _DOCUMENT = b"<!doctype html", b"%PDF-", b'{\n  "schema_version"'
_END = "</body>"
LINE = 120
"""Characters of a line of the packed document; chosen."""
READ = 1 << 16
"""Bytes of a stream that are looked at to tell what it is; chosen, as many as any caller asks for."""
MOST_UNPACKED = 1 << 30
"""Bytes that a packed document may have, at most; chosen, as of a report that is read."""


def embed(page: str, document: str) -> str:
    """A page with its document in it; one without an end of its body stays as it is.

    Args:
        page: HTML.
        document: What ``report.json`` holds.
    """
    head, end, tail = page.rpartition(_END)
    if not end or 'id="leakaudit-document"' in page:
        return page
    places = {uri: place for place, uri in enumerate(_pictures(page))}
    named = _QUOTED.sub(lambda m: f'"page-picture:{places[m[1]]}"' if m[1] in places else m[0], document)
    packed = base64.b64encode(gzip.compress(named.encode("utf-8"), mtime=0)).decode("ascii")
    lines = "".join(f"{packed[start : start + LINE]}\n" for start in range(0, len(packed), LINE))
    block = f'<template id="leakaudit-document" data-page-sha256="{_hash(page)}">\n{lines}</template>\n'
    return f"{head}{block}{end}{tail}"


def is_picture(text: str) -> bool:
    """Whether a text is a PNG as a ``data:`` address, and nothing else."""
    return _PICTURE.fullmatch(text) is not None


def is_page(content: bytes) -> bool:
    """Whether a file's content is HTML."""
    return content[:200].lstrip()[: len(_PAGE)].lower() == _PAGE


def is_pdf(content: bytes) -> bool:
    """Whether a file's content is a PDF."""
    return content[: len(_PDF)] == _PDF


def document_in(content: bytes) -> Any:
    """The document that a file is, or carries.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    if is_page(content):
        return _in_page(content.decode("utf-8"))
    return _in_pdf(content) if is_pdf(content) else json.loads(content.decode("utf-8"))


def page_hashes(content: bytes) -> tuple[str, str]:
    """The hash that a page states of itself, and the one that it has.

    Raises:
        ValueError: It carries none.
    """
    page = content.decode("utf-8")
    found = _found(page)
    return found[1], _hash(page[: found.start()] + page[found.end() :])


def _in_page(page: str) -> Any:
    found = _found(page)
    rest = page[: found.start()] + page[found.end() :]
    pictures = list(_pictures(rest))
    text = _unpacked(base64.b64decode(found[2]), wbits=31).decode("utf-8")
    named = _NAMED.sub(lambda m: f'"{pictures[int(m[1])]}"' if int(m[1]) < len(pictures) else m[0], text)
    return json.loads(named)


def _found(page: str) -> re.Match[str]:
    blocks = list(_BLOCK.finditer(page))
    if len(blocks) != 1:
        raise ValueError("the page carries no document")
    return blocks[0]


def _in_pdf(content: bytes) -> Any:
    """The attachment: the one stream that is a document with a hash of itself."""
    for start, head in stream_heads(content, len(_DOCUMENT)):
        if head == _DOCUMENT:
            return json.loads(_unpacked(content[start:]).decode("utf-8"))
    raise ValueError("the PDF has no document attached")


def stream_heads(content: bytes, longest: int) -> Iterator[tuple[int, bytes]]:
    """Where each stream of a PDF begins, and its first bytes, unpacked where they are packed.

    Args:
        content: The PDF.
        longest: Bytes of each, at most.
    """
    for start in (mark.end() for mark in _STREAM.finditer(content)):
        packed = content[start : start + READ]
        try:
            yield start, zlib.decompressobj().decompress(packed, longest)
        except zlib.error:
            yield start, packed[:longest]


def _unpacked(packed: bytes, wbits: int = 15) -> bytes:
    unpacking = zlib.decompressobj(wbits)
    try:
        content = unpacking.decompress(packed, MOST_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"the document cannot be unpacked: {error}") from error
    if not unpacking.eof:
        raise ValueError("the document is cut off, or too long")
    return content


def _pictures(page: str) -> Iterator[str]:
    """The pictures of a page in their order, each once."""
    yield from dict.fromkeys(_PICTURE.findall(page))


def _hash(page: str) -> str:
    return hashlib.sha256(page.encode("utf-8", "replace")).hexdigest()
