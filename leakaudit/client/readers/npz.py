"""The arrays of an ``.npz`` file of samples and their labels, checked before anything is made of them."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leakaudit.errors import BatchError
from leakaudit.safety.archives import check_arrays, check_unpacked
from leakaudit.safety.confined import confined
from leakaudit.safety.files import ordinary
from leakaudit.safety.plain import PLAIN_KINDS

INPUT_KEYS = ("x", "X", "images", "image", "inputs", "input", "data", "samples", "arr_0")
SAMPLE_KEYS = (*INPUT_KEYS, "input_ids", "tokens")
"""Names of inputs, whatever they are."""
LABEL_KEYS = ("y", "Y", "labels", "label", "targets", "target", "arr_1")
NAME_KEY = "class_names"
WORDS_KEY = "vocabulary"
COLUMNS_KEY = "columns"


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with ordinary(path).open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


class Arrays(NamedTuple):
    """The arrays of a batch file; names, words and names of columns are empty where it has none."""

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    class_names: tuple[str, ...]
    words: tuple[str, ...]
    columns: tuple[str, ...] = ()


def read_npz(path: Path, labelled: bool | None = True, keys: tuple[str, ...] = INPUT_KEYS) -> Arrays:
    """The arrays of an ``.npz`` file, by the first of the known names that it holds; read in a process of its own.

    Args:
        path: The file.
        labelled: Whether it must hold labels; ``None`` reads them where they are there.
        keys: Names of inputs.

    Raises:
        UsageError: It is a pipe or a device.
        BatchError: It is damaged, too large, or lacks inputs or labels.
    """
    ordinary(path)
    found: tuple[Any, ...] = confined(lambda: tuple(_read(path, labelled, keys)), str(path), BatchError)
    return Arrays(*found)


def _read(path: Path, labelled: bool | None, keys: tuple[str, ...]) -> Arrays:
    if not zipfile.is_zipfile(path):
        raise BatchError(
            f"{path}: not an .npz file",
            "write one with numpy.savez(path, x=images, y=labels), or pass a folder of images",
        )
    try:
        check_unpacked(path, BatchError)
        check_arrays(path, BatchError)
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            x_key = _pick_key(names, keys, "inputs", path)
            there = next((key for key in LABEL_KEYS if key in names), None) if labelled is None else None
            y_key = _pick_key(names, LABEL_KEYS, "labels", path) if labelled else there
            return Arrays(
                _read_array(archive, x_key, path),
                _read_array(archive, y_key, path) if y_key else np.zeros(0, np.int64),
                _read_names(archive, NAME_KEY, path),
                _read_names(archive, WORDS_KEY, path),
                _read_names(archive, COLUMNS_KEY, path),
            )
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error, NotImplementedError) as error:
        raise BatchError(f"{path}: damaged .npz file ({error})", "write the file again") from error


def _pick_key(names: list[str], known: tuple[str, ...], what: str, path: Path) -> str:
    for key in known:
        if key in names:
            return key
    raise BatchError(
        f"{path}: no array of {what}; it holds {', '.join(names) or 'nothing'}",
        f"name the array of {what} one of: {', '.join(known)}",
    )


def _read_array(archive: Any, key: str, path: Path) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(archive[key])
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BatchError(
                f"{path}: array {key!r} holds pickled objects, which are never loaded (they can run code)",
                "save it as a plain array of numbers",
            ) from error
        raise BatchError(f"{path}: array {key!r} is damaged ({error})", "write the file again") from error
    if array.dtype.kind not in PLAIN_KINDS:
        raise BatchError(f"{path}: array {key!r} has dtype {array.dtype}, expected numbers", "save it as numbers")
    return array


def _read_names(archive: Any, key: str, path: Path) -> tuple[str, ...]:
    found = _read_array(archive, key, path).ravel() if key in archive.files else ()
    try:
        return tuple(str(name)[:200] for name in found)
    except (SystemError, ValueError) as error:  # NumPy makes text of any 32 bits
        raise BatchError(f"{path}: array {key!r} holds what is no text", "write the file again") from error
