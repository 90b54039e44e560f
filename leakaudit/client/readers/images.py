"""Private images: a ``.npz`` with an array of inputs and one of labels, or a folder with one sub-folder per class.

Whatever the dtype and layout in the file, the batch holds pixels in 0..1 as float32 ``(N, C, H, W)``. Rows of numbers
are taken for pictures only where something says so: by their number alone, rows of 14 are a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.readers.arranging import arranged
from leakaudit.client.readers.base import DataLayout, Reader, Source, ValueRange
from leakaudit.client.readers.labels import label_note, read_labels
from leakaudit.client.readers.memory import gathered
from leakaudit.client.readers.npz import hash_files, read_npz
from leakaudit.client.readers.pixels import read_pictures, to_pixels
from leakaudit.client.readers.table import TableReader, looks_like_table
from leakaudit.domains.images import Images
from leakaudit.domains.table import Table
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.target import Target
from leakaudit.tasks.base import Task

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
DIGITS = 9
"""Digits of a class number that is the name of a folder, at most; chosen."""


@dataclass(frozen=True, eq=False)
class ImageReader(Reader):
    """Reads images for a model."""

    @property
    def domain(self) -> Images:
        """Of the model.

        Raises:
            UsageError: It takes no images.
        """
        if not isinstance(self.target.domain, Images):
            raise UsageError(f"{self.target.name} takes {self.target.domain.takes}, no images")
        return self.target.domain

    def read(self, source: Source) -> Batch:
        """See :func:`load_batch` for files and folders, :func:`from_arrays` for arrays."""
        domain, task, how = self.domain, self.target.task, self.reading
        source = gathered(source)
        if isinstance(source, Batch):
            return source
        if isinstance(source, tuple):
            return from_arrays(source[0], source[1], domain, task, layout=how.layout, values=how.values)
        return load_batch(source, domain, task, layout=how.layout, values=how.values, resize=how.resize)

    def fitted(self, source: Source) -> tuple[Target, Batch]:
        """Images; or rows of a table, where only the length of a vector made it a picture and they can be none."""
        source = gathered(source)
        if self.domain.guessed and looks_like_table(source, self.reading.values):
            table = Table.plain(prod(self.domain.shape))
            return TableReader(replace(self.target, domain=table), self.reading).fitted(source)
        return self.target, self.read(source)

    def refuse(self, given: Mapping[str, object]) -> None:
        """Nothing: images take all of them."""

    def public(self, path: str | Path) -> Tensor:
        """See :func:`load_images`; that the batch is normalised says nothing of public images."""
        values: ValueRange = "pixels" if self.reading.values == "pixels" else "auto"
        return load_images(path, self.domain, resize=self.reading.resize, values=values)


def load_batch(
    path: str | Path,
    domain: Images,
    task: Task | int,
    *,
    layout: DataLayout = "auto",
    values: ValueRange = "auto",
    resize: bool = False,
) -> Batch:
    """Read images and their labels for a model.

    Args:
        path: ``.npz`` file, or folder with one sub-folder per class.
        domain: Shape and normalisation of the model's inputs.
        task: What labels are, or a number of classes of which each sample has one.
        layout: Axis order of 4-D arrays; ``auto`` infers it from the model's shape.
        values: See `leakaudit.client.readers.base.Reading`.
        resize: Resize and centre-crop the images of a folder to the model's size.

    Raises:
        UsageError: The path does not exist.
        BatchError: The content does not fit the model; says where and what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such batch file or folder: {path}", "pass --batch FILE.npz or a folder of images")
    if path.is_dir() and len(domain.shape) != 3:
        raise UsageError(f"{path} is a folder of pictures; the model takes {domain.takes}", "pass --batch FILE.npz")
    if path.is_dir():
        return _load_folder(path, domain, task, resize, values)
    found = read_npz(path)
    batch = from_arrays(found.inputs, found.labels, domain, task, layout=layout, values=values, path=str(path))
    return replace(batch, class_names=found.class_names, sha256=hash_files([path]))


def load_images(path: str | Path, domain: Images, *, resize: bool = False, values: ValueRange = "auto") -> Tensor:
    """Public images without labels, for attacks that learn from them.

    Args:
        path: ``.npz`` with an array of inputs, or a folder of images, with or without sub-folders.
        domain: Shape and normalisation of the model's inputs.
        resize: Resize and centre-crop the images of a folder to the model's size.
        values: As of :func:`load_batch`.

    Returns:
        Pixels in 0..1, float32 (N, C, H, W).

    Raises:
        UsageError: The path does not exist.
        BatchError: The content does not fit the model.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such file or folder of public images: {path}")
    if path.is_dir() and len(domain.shape) != 3:
        raise UsageError(f"{path} is a folder of pictures; the model takes {domain.takes}", "give an .npz file")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise BatchError(f"{path}: no images", f"accepted: {', '.join(sorted(IMAGE_SUFFIXES))}")
        return read_pictures(files, domain, resize, values, str(path))[0]
    found, _ = arranged(read_npz(path, labelled=False).inputs, domain.shape, "auto", str(path))
    return to_pixels(found, domain, values, str(path))[0]


def from_arrays(
    inputs: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    domain: Images,
    task: Task | int,
    *,
    layout: DataLayout = "auto",
    values: ValueRange = "auto",
    path: str | None = None,
) -> Batch:
    """Images and labels from arrays in memory.

    Args:
        inputs: Pixels or normalised values, (N, C, H, W), (N, H, W, C), (N, H, W) or flat rows (N, D); of volumes
            with one more axis.
        labels: As the task takes them: class indices (N,), rows (N, K) or numbers.
        domain: Shape and normalisation of the model's inputs.
        task: What labels are, or a number of classes of which each sample has one.
        layout: Axis order of 4-D arrays; ``auto`` infers it from the model's shape.
        values: See `leakaudit.client.readers.base.Reading`.
        path: File that they came from.

    Raises:
        BatchError: They do not fit the model; says where and what was expected.
    """
    where = path or "batch"
    array, layout_note = arranged(np.asarray(inputs), domain.shape, layout, where)
    pixels, value_note = to_pixels(array, domain, values, where)
    checked = read_labels(task, np.asarray(labels), len(pixels), where)
    return Batch(
        images=pixels,
        labels=checked,
        indices=tuple(range(len(pixels))),
        path=path,
        notes=(layout_note, value_note, *label_note(checked, task)),
    )


def _class_folders(path: Path) -> list[Path]:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise BatchError(f"{path}: no sub-folders, expected one per class", "sort the images into one folder per class")
    return folders


def _images_of(folders: Sequence[Path]) -> list[tuple[int, Path]]:
    """Position of the folder and image file, in order."""
    return [
        (position, file)
        for position, folder in enumerate(folders)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]


def _load_folder(path: Path, domain: Images, task: Task | int, resize: bool, values: ValueRange) -> Batch:
    folders = _class_folders(path)
    names = [p.name for p in folders]
    by_number = all(name.isascii() and name.isdecimal() and len(name) <= DIGITS for name in names)
    files = [(file, int(names[place]) if by_number else place) for place, file in _images_of(folders)]
    if not files:
        raise BatchError(f"{path}: no images in its sub-folders", f"accepted: {', '.join(sorted(IMAGE_SUFFIXES))}")
    pixels, notes = read_pictures([file for file, _ in files], domain, resize, values, str(path))
    labels = read_labels(task, np.array([label for _, label in files]), len(files), str(path))
    return Batch(
        images=pixels,
        labels=labels,
        indices=tuple(range(len(files))),
        class_names=() if by_number else tuple(names),
        path=str(path),
        sha256=hash_files([file for file, _ in files]),
        notes=(
            f"{len(files)} images in {len(folders)} folders, classes " + ("by number" if by_number else "by name"),
            *notes,
        ),
    )


def hash_batch(path: Path) -> str:
    """The hash that a batch loaded from this file or folder has.

    Raises:
        BatchError: A folder without sub-folders of images.
    """
    return hash_files([file for _, file in _images_of(_class_folders(path))] if path.is_dir() else [path])
