"""The arrays of an ``.npz`` file of samples and their labels, checked before anything is made of them."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


def as_arrays(pair: tuple[Any, ...]) -> Arrays:
    """Inputs and labels in memory as the arrays of a file, with the names that come with them."""
    return pair if isinstance(pair, Arrays) else Arrays(np.asarray(pair[0]), np.asarray(pair[1]), (), ())


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


def read_joined(paths: Sequence[Path], keys: tuple[str, ...] = INPUT_KEYS) -> Arrays:
    """The arrays of several files one after the other, with the names that the first gives.

    Raises:
        BatchError: One cannot be read, or they are of different shapes.
    """
    found = [read_npz(path, None, keys) for path in paths]
    kinds = {(arrays.inputs.shape[1:], arrays.labels.shape[1:]) for arrays in found}
    if len(kinds) > 1:
        shapes = " and ".join(sorted(f"{tuple(inputs)} with labels {tuple(labels)}" for inputs, labels in kinds))
        raise BatchError(
            f"the samples of {len(paths)} files do not go together: one is {shapes}",
            "give them alike, all with class indices or all with probabilities",
        )
    inputs, labels = (np.concatenate([arrays[place] for arrays in found]) for place in (0, 1))
    return found[0]._replace(inputs=inputs, labels=labels)


class Named(NamedTuple):
    """Inputs by name, of a file that holds an array for each input of a model; `inputs` is empty where it does not."""

    inputs: dict[str, np.ndarray[Any, Any]]
    labels: np.ndarray[Any, Any]
    class_names: tuple[str, ...]


def read_named(path: Path, names: Sequence[str]) -> Named:
    """The arrays of these names in an ``.npz`` file and the labels; read in a process of its own.

    Raises:
        UsageError: It is a pipe or a device.
        BatchError: It is damaged or too large, or has some of the names but not all, or no labels.
    """
    ordinary(path)
    found: tuple[Any, ...] = confined(lambda: tuple(_read_named(path, names)), str(path), BatchError)
    return Named(*found)


def _read_named(path: Path, names: Sequence[str]) -> Named:
    with _opened(path) as archive:
        here = [name for name in names if name in archive.files]
        missing = [name for name in names if name not in here]
        if not here:
            return Named({}, np.zeros(0, np.int64), ())
        if missing:
            raise BatchError(
                f"{path}: no array {missing[0]!r}; it holds {', '.join(archive.files)}",
                f"give an array for each input of the model: {', '.join(names)}",
            )
        labels = _read_array(archive, _pick_key(list(archive.files), LABEL_KEYS, "labels", path), path)
        inputs = {name: _read_array(archive, name, path) for name in names}
        return Named(inputs, labels, _read_names(archive, NAME_KEY, path))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The archive, checked.

    Raises:
        BatchError: It is none, or damaged.
    """
    if not zipfile.is_zipfile(path):
        raise BatchError(
            f"{path}: not an .npz file",
            "write one with numpy.savez(path, x=images, y=labels), or pass a folder of images",
        )
    try:
        check_unpacked(path, BatchError)
        check_arrays(path, BatchError)
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error, NotImplementedError) as error:
        raise BatchError(f"{path}: damaged .npz file ({error})", "write the file again") from error


def _read(path: Path, labelled: bool | None, keys: tuple[str, ...]) -> Arrays:
    with _opened(path) as archive:
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
