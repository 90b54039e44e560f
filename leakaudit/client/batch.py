"""The private samples: reading a sample file or folder into a validated :class:`Batch`.

Accepted: a ``.npz`` with an array of inputs and one of labels, or a folder of images with one sub-folder per class.
Whatever the dtype and layout in the file, a Batch holds pixels in 0..1 as float32 ``(N, C, H, W)``; of token ids, which
`leakaudit.client.readers.tokens` reads, int64 ``(N, 1, 1, L)``.
Only `leakaudit.client.observe` and `leakaudit.scoring.images` may hold one.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leakaudit.errors import BatchError, UsageError
from leakaudit.observation import InputSpace

DataLayout = Literal["auto", "NCHW", "NHWC"]
ValueRange = Literal["auto", "pixels", "normalized"]
INPUT_KEYS = ("x", "X", "images", "image", "inputs", "input", "data", "samples", "arr_0")
LABEL_KEYS = ("y", "Y", "labels", "label", "targets", "target", "arr_1")
NAME_KEY = "class_names"
WORDS_KEY = "vocabulary"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Batch:
    """Private samples.

    Args:
        images: Pixels in 0..1, float32 (N, C, H, W), or token ids, int64 (N, 1, 1, L).
        labels: Class indices, int64 (N,).
        indices: Position of each sample in the file (N,).
        class_names: Names by class index, where the folder gives them.
        path: File or folder.
        sha256: Hash of the file, or of the folder's files in order.
        notes: How the file was read, one sentence each.
        words: Of token ids, the words by id, where the file gives them.
    """

    images: Tensor
    labels: Tensor
    indices: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    path: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = field(default=())
    words: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def subset(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions, in this order."""
        chosen = torch.as_tensor(list(positions), dtype=torch.long)
        return Batch(
            images=self.images[chosen],
            labels=self.labels[chosen],
            indices=tuple(self.indices[i] for i in positions),
            class_names=self.class_names,
            words=self.words,
        )

    def draw(self, count: int, size: int, seed: int) -> list[Batch]:
        """`count` disjoint batches of `size` samples, chosen by `seed`.

        Raises:
            UsageError: The file holds fewer than ``count * size`` samples.
        """
        if count * size > len(self):
            raise UsageError(
                f"{count} victim(s) of {size} sample(s) need {count * size} samples, the batch file has {len(self)}",
                "lower --victims or --batch-size, or give a larger file",
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return [self.subset(order[i * size : (i + 1) * size]) for i in range(count)]


def load_batch(
    path: str | Path,
    space: InputSpace,
    classes: int,
    *,
    layout: DataLayout = "auto",
    values: ValueRange = "auto",
    resize: bool = False,
) -> Batch:
    """Read samples for a model.

    Args:
        path: ``.npz`` file, or folder with one sub-folder per class.
        space: Shape and normalisation of the model's inputs.
        classes: Number of classes of the model.
        layout: Axis order of 4-D arrays; ``auto`` infers it from the model's shape.
        values: ``pixels`` (0..1 or 0..255), ``normalized`` (mean and std of `space` already applied), or ``auto``.
        resize: Resize and centre-crop the images of a folder to the model's size.

    Raises:
        UsageError: The path does not exist.
        BatchError: The content does not fit the model; says where and what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such batch file or folder: {path}", "pass --batch FILE.npz or a folder of images")
    if path.is_dir():
        return _load_folder(path, space, classes, resize)
    found = read_npz(path)
    batch = from_arrays(found.inputs, found.labels, space, classes, layout=layout, values=values, path=str(path))
    return replace(batch, class_names=found.class_names, sha256=hash_files([path]))


def load_images(path: str | Path, space: InputSpace, *, resize: bool = False) -> Tensor:
    """Public images without labels, for attacks that learn from them.

    Args:
        path: ``.npz`` with an array of inputs, or a folder of images, with or without sub-folders.
        space: Shape and normalisation of the model's inputs.
        resize: Resize and centre-crop the images of a folder to the model's size.

    Returns:
        Pixels in 0..1, float32 (N, C, H, W).

    Raises:
        UsageError: The path does not exist.
        BatchError: The content does not fit the model.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such file or folder of auxiliary images: {path}")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise BatchError(f"{path}: no images", f"accepted: {', '.join(sorted(IMAGE_SUFFIXES))}")
        return torch.from_numpy(np.stack([_read_image(file, space.shape, resize) for file in files]))
    arranged, _ = _arrange(read_npz(path, labelled=False).inputs, space.shape, "auto", str(path))
    return _to_pixels(arranged, space, "auto", str(path))[0]


def refuse_overlap(auxiliary: Tensor, private: Batch) -> None:
    """Refuse auxiliary images that also occur in the private batch: the attacker would hold the answer.

    Raises:
        BatchError: An image occurs in both, equal to 8 bits.
    """
    known = {_image_hash(image) for image in auxiliary}
    shared = [i for i, image in enumerate(private.images) if _image_hash(image) in known]
    if shared:
        raise BatchError(
            f"{len(shared)} of {len(private)} private samples are among the auxiliary images, first sample {shared[0]}",
            "give images that are not in the batch: the attacker must not hold the answer",
        )


def _image_hash(image: Tensor) -> bytes:
    return hashlib.sha256((image * 255).round().byte().numpy().tobytes()).digest()


def from_arrays(
    inputs: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    space: InputSpace,
    classes: int,
    *,
    layout: DataLayout = "auto",
    values: ValueRange = "auto",
    path: str | None = None,
) -> Batch:
    """The same from arrays in memory; see :func:`load_batch` for arguments and errors."""
    where = path or "batch"
    arranged, layout_note = _arrange(np.asarray(inputs), space.shape, layout, where)
    pixels, value_note = _to_pixels(arranged, space, values, where)
    return Batch(
        images=pixels,
        labels=check_labels(np.asarray(labels), len(pixels), classes, where),
        indices=tuple(range(len(pixels))),
        path=path,
        notes=(layout_note, value_note),
    )


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


class Arrays(NamedTuple):
    """The arrays of a batch file; names and words are empty where it has none."""

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    class_names: tuple[str, ...]
    words: tuple[str, ...]


def read_npz(path: Path, labelled: bool = True, keys: tuple[str, ...] = INPUT_KEYS) -> Arrays:
    """The arrays of an ``.npz`` file, by the first of the known names that it holds.

    Raises:
        BatchError: It is damaged, too large, or lacks inputs or labels.
    """
    if not zipfile.is_zipfile(path):
        raise BatchError(
            f"{path}: not an .npz file",
            "write one with numpy.savez(path, x=images, y=labels), or pass a folder of images",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise BatchError(f"{path}: unpacks to {size / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:.0f} GiB")
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            x_key = _pick_key(names, keys, "inputs", path)
            y_key = _pick_key(names, LABEL_KEYS, "labels", path) if labelled else None
            return Arrays(
                _read_array(archive, x_key, path),
                _read_array(archive, y_key, path) if y_key else np.zeros(0, np.int64),
                _read_names(archive, NAME_KEY, path),
                _read_names(archive, WORDS_KEY, path),
            )
    except (zipfile.BadZipFile, EOFError, OSError) as error:
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
        return np.asarray(archive[key])
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BatchError(
                f"{path}: array {key!r} holds pickled objects, which are never loaded (they can run code)",
                "save it as a plain array of numbers",
            ) from error
        raise BatchError(f"{path}: array {key!r} is damaged ({error})", "write the file again") from error


def _read_names(archive: Any, key: str, path: Path) -> tuple[str, ...]:
    found = _read_array(archive, key, path).ravel() if key in archive.files else ()
    return tuple(str(name)[:200] for name in found)


def _arrange(
    array: np.ndarray[Any, Any], shape: tuple[int, int, int], layout: DataLayout, where: str
) -> tuple[np.ndarray[Any, Any], str]:
    """To (N, C, H, W)."""
    c, h, w = shape
    if array.dtype.kind not in "uif":
        raise BatchError(
            f"{where}: inputs have dtype {array.dtype}, expected uint8 or float", "convert them with .astype('float32')"
        )
    if array.ndim < 2 or len(array) == 0:
        raise BatchError(f"{where}: inputs have shape {array.shape}, expected (N, {c}, {h}, {w}) with N ≥ 1")
    sample = array.shape[1:]
    if sample == (c, h, w) and layout != "NHWC":
        return array, f"read as (N, C, H, W) = {array.shape}"
    if sample == (h, w, c) and layout != "NCHW":
        return array.transpose(0, 3, 1, 2), f"read as (N, H, W, C) = {array.shape}"
    if sample == (h, w) and c == 1:
        return array[:, None], f"read as (N, H, W) = {array.shape}"
    if sample == (c * h * w,):
        if layout == "NHWC":
            return array.reshape(-1, h, w, c).transpose(0, 3, 1, 2), "flat rows read as (H, W, C)"
        return array.reshape(-1, c, h, w), "flat rows read as (C, H, W)"
    declared = "" if layout == "auto" else f" with --layout {layout}"
    raise BatchError(
        f"{where}: one sample has shape {tuple(sample)}{declared}, the model takes {(c, h, w)} (C, H, W)",
        f"store the inputs as (N, {c}, {h}, {w}) or (N, {h}, {w}, {c})",
    )


def _to_pixels(array: np.ndarray[Any, Any], space: InputSpace, values: ValueRange, where: str) -> tuple[Tensor, str]:
    """To float32 pixels in 0..1."""
    data = torch.from_numpy(np.array(array, dtype=np.float32))
    finite = torch.isfinite(data)
    if not bool(finite.all()):
        first = int((~finite).flatten(1).any(1).nonzero()[0])
        raise BatchError(
            f"{where}: {int((~finite).sum())} input values are NaN or infinite, first in sample {first}",
            "remove or repair those samples",
        )
    low, high = float(data.min()), float(data.max())
    if values == "normalized" or (values == "auto" and low < 0 and array.dtype.kind == "f"):
        return _denormalize(data, space, low, high, where)
    if array.dtype.kind in "ui" or high > 1.0:
        whole = array.dtype.kind in "ui" or bool((data == data.round()).all())
        if low < 0 or high > 255 or not whole:
            raise BatchError(
                f"{where}: inputs run from {low:g} to {high:g}, expected 0..1 or whole numbers 0..255",
                "scale them, or pass the --mean and --std they were normalised with and --values normalized",
            )
        return data / 255.0, f"{array.dtype} values {low:g}..{high:g} read as 0..255"
    return data, f"{array.dtype} values {low:g}..{high:g} read as 0..1"


def _denormalize(data: Tensor, space: InputSpace, low: float, high: float, where: str) -> tuple[Tensor, str]:
    mean = torch.tensor(space.mean).view(-1, 1, 1)
    std = torch.tensor(space.std).view(-1, 1, 1)
    pixels = data * std + mean
    if float(pixels.min()) < -0.02 or float(pixels.max()) > 1.02:
        raise BatchError(
            f"{where}: inputs run from {low:g} to {high:g}, so normalised, but value × std + mean leaves 0..1 "
            f"with mean {space.mean} and std {space.std}",
            "pass the --mean and --std they were normalised with, or store pixels in 0..1",
        )
    return pixels.clamp(0.0, 1.0), f"values {low:g}..{high:g} read as already normalised"


def check_labels(labels: np.ndarray[Any, Any], count: int, classes: int, where: str) -> Tensor:
    """Class indices, int64 (count,), from indices or one-hot rows.

    Raises:
        BatchError: They are not one class of the model per sample.
    """
    labels = labels.squeeze(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 2 and labels.shape[1] == classes and labels.dtype.kind in "uifb":
        labels = labels.argmax(1)
    if labels.ndim != 1 or len(labels) != count:
        raise BatchError(
            f"{where}: labels have shape {labels.shape}, expected ({count},), one per sample",
            "store one class index per sample",
        )
    if labels.dtype.kind not in "uif" or not np.all(np.isfinite(labels)) or np.any(labels != np.round(labels)):
        raise BatchError(
            f"{where}: labels have dtype {labels.dtype}, expected whole class indices", "store int64 labels"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        first = int(outside[0])
        raise BatchError(
            f"{where}: label {labels[first]:g} of sample {first} is out of range, the model has {classes} classes "
            f"(0 to {classes - 1})",
            "labels count from 0; check that the batch belongs to this model",
        )
    return torch.from_numpy(labels.astype(np.int64))


def hash_batch(path: Path) -> str:
    """The hash that a batch loaded from this file or folder has.

    Raises:
        BatchError: A folder without sub-folders of images.
    """
    return hash_files([file for _, file in _images_of(_class_folders(path))] if path.is_dir() else [path])


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


def _load_folder(path: Path, space: InputSpace, classes: int, resize: bool) -> Batch:
    folders = _class_folders(path)
    names = [p.name for p in folders]
    by_number = all(name.isdigit() for name in names)
    files = [(file, int(names[place]) if by_number else place) for place, file in _images_of(folders)]
    if not files:
        raise BatchError(f"{path}: no images in its sub-folders", f"accepted: {', '.join(sorted(IMAGE_SUFFIXES))}")
    pixels = np.stack([_read_image(file, space.shape, resize) for file, _ in files])
    labels = check_labels(np.array([label for _, label in files]), len(files), classes, str(path))
    return Batch(
        images=torch.from_numpy(pixels),
        labels=labels,
        indices=tuple(range(len(files))),
        class_names=() if by_number else tuple(names),
        path=str(path),
        sha256=hash_files([file for file, _ in files]),
        notes=(f"{len(files)} images in {len(folders)} folders, classes " + ("by number" if by_number else "by name"),),
    )


def _read_image(file: Path, shape: tuple[int, int, int], resize: bool) -> np.ndarray[Any, Any]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels, height, width = shape
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise BatchError(f"{file}: the model takes {channels} channels, images have 1, 3 or 4", "use an .npz file")
    try:
        with Image.open(file) as opened:
            image = opened.convert(mode)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise BatchError(f"{file}: not a readable image ({error})", "remove the file or write it again") from error
    if image.size != (width, height):
        if not resize:
            raise BatchError(
                f"{file}: is {image.size[0]}×{image.size[1]} pixels, the model takes {width}×{height}",
                "pass --resize to scale and centre-crop, or store images of the model's size",
            )
        image = ImageOps.fit(image, (width, height))
    array = np.asarray(image, dtype=np.float32) / 255.0
    pixels: np.ndarray[Any, Any] = array.reshape(height, width, channels).transpose(2, 0, 1)
    return pixels
