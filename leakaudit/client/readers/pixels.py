"""What the numbers of a picture mean: from arrays and files of any depth to pixels in 0..1.

===============================  =====================================================================
numbers                          read as
===============================  =====================================================================
yes or no, or whole 0 and 1      0..1: a mask
whole, up to 255                 0..255; asked below 64, where 0..255 would be nearly black
16 bits, up to 65535             0..65535; asked below 4096, where they may be 10 or 12 bits
fractions, up to 1               0..1; asked where none is above 1/255, as after two divisions by 255
fractions with negative ones     normalised: times std plus mean
all else                         refused
===============================  =====================================================================

"Asked" is one clear line; ``--values pixels`` is the answer that the numbers do run over the whole range of their type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.readers.base import ValueRange
from leakaudit.domains.images import BYTES, Images
from leakaudit.errors import BatchError, LeakauditError
from leakaudit.safety.confined import Limits, confined, grant, refuse_exhaustion
from leakaudit.safety.files import ordinary

WORDS = 65535.0
"""White of 16 bits, by definition."""
DIM_BYTES, DIM_WORDS = 64, 4096
"""Whole numbers that all stay below these are asked about: 6 of 8 bits, and 12 of 16, as detectors and scanners store
them; chosen."""
DIM_FRACTION = 1.0001 / BYTES
"""What is left of white after two divisions by 255, and rounding."""
SLACK = 0.02
"""How far a normalised value may leave 0..1 by rounding of mean and standard deviation; chosen."""
FILES_PER_SECOND = 20
"""Pictures that allow a second more to read a folder; chosen, a tenth of what a core reads of photographs."""
COPIES = 3
"""How often the numbers of a picture may stand in memory while a folder is read; chosen."""
_ASK = "pass --values pixels if they do run so, else store them as fractions of white, in 0..1"


def to_pixels(array: np.ndarray[Any, Any], domain: Images, values: ValueRange, where: str) -> tuple[Tensor, str]:
    """Pixels in 0..1, float32, and how they were read.

    Args:
        array: (N, C, H, W) of any numbers.
        domain: With the client's normalisation.
        values: See `leakaudit.client.readers.base.Reading`.
        where: The file, for messages.

    Raises:
        BatchError: They are not finite, or what they mean cannot be told.
    """
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
        return _denormalize(data, domain, low, high, where)
    white = _white(array, data, low, high, where)
    if values == "auto":
        _ask_if_dim(array, high, white, where)
    return data / white, f"{array.dtype} values {low:g}..{high:g} read as 0..{white:g}"


def _white(array: np.ndarray[Any, Any], data: Tensor, low: float, high: float, where: str) -> float:
    """The number that stands for white."""
    whole = array.dtype.kind in "uib" or bool((data == data.round()).all())
    if low >= 0 and high <= 1:
        return 1.0
    if low >= 0 and high <= BYTES and whole:
        return BYTES
    if _is_words(array.dtype):
        return WORDS
    raise BatchError(
        f"{where}: inputs run from {low:g} to {high:g}, expected 0..1 or whole numbers 0..255, or 0..65535 in uint16",
        "scale them to 0..1, or pass the --mean and --std they were normalised with and --values normalized",
    )


def _is_words(kind: np.dtype[Any]) -> bool:
    """Whether numbers have 16 bits and no sign, in whatever order of bytes."""
    return kind.kind == "u" and kind.itemsize == 2


def _ask_if_dim(array: np.ndarray[Any, Any], high: float, white: float, where: str) -> None:
    """Refuse to guess where pictures would be nearly black: they may be in another unit."""
    seen = f"{where}: inputs run up to {high:g} and would be read as 0..{white:g}, nearly black"
    if white == BYTES and high < DIM_BYTES:
        raise BatchError(f"{seen}: they may be of fewer bits, or class numbers", _ASK)
    if white == WORDS and high < DIM_WORDS:
        raise BatchError(f"{seen}: they may be of 10 or 12 bits", _ASK)
    if white == 1.0 and array.dtype.kind == "f" and 0 < high <= DIM_FRACTION:
        raise BatchError(f"{seen}: they may have been divided by 255 twice", _ASK)


def _denormalize(data: Tensor, domain: Images, low: float, high: float, where: str) -> tuple[Tensor, str]:
    ones = (1,) * (data.dim() - 2)
    mean, std = torch.tensor(domain.mean).view(-1, *ones), torch.tensor(domain.std).view(-1, *ones)
    pixels = data * std + mean
    if float(pixels.min()) < -SLACK or float(pixels.max()) > 1 + SLACK:
        raise BatchError(
            f"{where}: inputs run from {low:g} to {high:g}, so normalised, but value × std + mean leaves 0..1 "
            f"with mean {domain.mean} and std {domain.std}",
            "pass the --mean and --std they were normalised with, or store pixels in 0..1",
        )
    return pixels.clamp(0.0, 1.0), f"values {low:g}..{high:g} read as already normalised"


def read_pictures(
    files: list[Path], domain: Images, resize: bool, values: ValueRange, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Pixels (N, C, H, W) in 0..1 of picture files, and how each depth among them was read.

    What numbers mean is decided for all files of one depth together: a single dark picture says little.

    Args:
        files: At least one.
        domain: Shape and normalisation of the model's inputs.
        resize: Scale and centre-crop to the model's size.
        values: As of :func:`to_pixels`; ``normalized`` does not occur in pictures of whole numbers.
        where: What they belong to, for messages.

    Raises:
        BatchError: A file is no picture, of another size, or its numbers cannot be told.
    """
    limits = Limits(seconds=Limits.seconds + len(files) // FILES_PER_SECOND)
    decoded = confined(lambda: _all_decoded(files, domain.shape, resize), where, BatchError, limits)
    pixels = torch.empty((len(files), *domain.shape))
    notes = []
    for depth in dict.fromkeys(array.dtype for array in decoded):
        places = [place for place, array in enumerate(decoded) if array.dtype == depth]
        stacked = np.stack([decoded[place] for place in places])
        asked: ValueRange = "auto" if values == "normalized" and depth.kind != "f" else values
        pixels[places], note = to_pixels(stacked, domain, asked, where)
        notes.append(note)
    return pixels, tuple(notes)


def _all_decoded(files: list[Path], shape: tuple[int, ...], resize: bool) -> list[np.ndarray[Any, Any]]:
    """The numbers of every file; what each needs is granted when it is known to be a picture."""
    decoded = []
    for file in files:
        decoded.append(_decode(file, shape, resize))
        grant(COPIES * decoded[-1].nbytes)
    return decoded


def _decode(file: Path, shape: tuple[int, ...], resize: bool) -> np.ndarray[Any, Any]:
    """The numbers of a picture file (C, H, W) as the file has them: of 8 or 16 bits, 32 bits, or fractions."""
    from PIL import Image

    channels, height, width = shape
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise BatchError(f"{file}: the model takes {channels} channels, images have 1, 3 or 4", "use an .npz file")
    try:
        with Image.open(ordinary(file)) as opened:
            _refuse_several(file, opened)
            deep = opened.mode == "F" or opened.mode.startswith("I")
            image = opened.copy() if deep else opened.convert(mode)
    except LeakauditError:
        raise
    except Exception as error:  # parsers of twenty formats raise errors of many types for damaged pictures
        refuse_exhaustion(error)
        raise BatchError(f"{file}: not a readable image ({error})", "remove the file or write it again") from error
    array = _of_size(image, (width, height), resize, file)
    if deep:
        return _spread(array, channels, file)
    arranged: np.ndarray[Any, Any] = array.reshape(height, width, channels).transpose(2, 0, 1)
    return arranged


def _refuse_several(file: Path, opened: Any) -> None:
    """Refuse files with several pictures, of which all but the first would be left out."""
    frames = int(getattr(opened, "n_frames", 1))
    if frames > 1:
        raise BatchError(
            f"{file}: holds {frames} pictures, expected one", "store each as a file of its own, or as .npz"
        )


def _of_size(image: Any, size: tuple[int, int], resize: bool, file: Path) -> np.ndarray[Any, Any]:
    """The picture's numbers, scaled and cropped where that was asked for."""
    from PIL import Image, ImageOps

    array: np.ndarray[Any, Any] = np.asarray(image)
    if image.size == size:
        return array
    if not resize:
        raise BatchError(
            f"{file}: is {image.size[0]}×{image.size[1]} pixels, the model takes {size[0]}×{size[1]}",
            "pass --resize to scale and centre-crop, or store images of the model's size",
        )
    if image.mode in ("L", "RGB", "RGBA", "F"):
        return np.asarray(ImageOps.fit(image, size))
    fitted = np.asarray(ImageOps.fit(Image.fromarray(array.astype(np.float32)), size))
    limits = np.iinfo(array.dtype)
    whole: np.ndarray[Any, Any] = np.rint(fitted).clip(limits.min, limits.max).astype(array.dtype)
    return whole


def _spread(array: np.ndarray[Any, Any], channels: int, file: Path) -> np.ndarray[Any, Any]:
    """One plane (H, W) for as many channels; a fourth, opaque."""
    planes = [array] * min(channels, 3)
    if channels == 4 and not _is_words(array.dtype):
        raise BatchError(f"{file}: has one plane of {array.dtype}, the model takes 4 channels", "use an .npz file")
    if channels == 4:
        planes.append(np.full_like(array, WORDS))
    return np.stack(planes)
