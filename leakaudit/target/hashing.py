"""The hash of a model: of everything that is read for it, the files of external data beside an ONNX file included."""

from __future__ import annotations

import hashlib
from pathlib import Path

from leakaudit.errors import ModelError, UsageError


def hash_model(path: Path) -> str:
    """SHA-256 of a model file's bytes, and then of those of its external data files, in the order of their names.

    Raises:
        UsageError: There is no such file.
        ModelError: It is an ONNX file whose external data is missing or outside its folder.
    """
    digest = hashlib.sha256()
    for file in model_files(path):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def model_files(path: Path) -> list[Path]:
    """All files that are read for a model: its own, and then those of its external data, in the order of their names.

    Raises:
        UsageError: There is no such file.
        ModelError: It is an ONNX file whose external data is missing or outside its folder.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file", "pass the path of a model file")
    return [path, *_external(path)]


def _external(path: Path) -> list[Path]:
    """The files of external data that a model file names; none where it is no ONNX file."""
    from leakaudit.target.readers import reader_of

    try:
        kind = reader_of(path).kind
    except ModelError:  # no model at all: its bytes are what there is to compare
        return []
    if kind != "onnx" or not _mentions(path, b"location"):
        return []
    from leakaudit.target.onnx.read import external_files

    return external_files(path)


def _mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds these bytes; ONNX names a file of external data under the key ``location``.

    A model that holds all its weights is not read as a message for that, which would take twice its size in memory.
    """
    before = b""
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            if word in before + chunk:
                return True
            before = chunk[-len(word) :]
    return False
