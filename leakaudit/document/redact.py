"""What a report shows of private data: all of it, a mosaic of large images and nothing else, or nothing.

The document is built again from what its fields declare (see `leakaudit.document.disclosure`), at every depth: results
of variants and of attacks run for comparison hide the same as the main ones. ``none`` empties everything that is
private: images, tokens, words, labels, class names, notes on the batch, file names other than the model's. ``blurred``
does the same, and leaves a mosaic of 4 × 4 averages, drawn smoothly, of images with at least 16 pixels a side: the
colours of regions stay, a face or a digit does not. Below that size an average would cover fewer than 16 pixels, down
to a single one in a 4 × 4 image or a row of features, which would show the sample itself, so smaller images are left
out. So are pictures of samples whose domain does not say that a mosaic hides them
(`leakaudit.report.domains.base.Card.mosaics`).

A mosaic still confirms a guess to whoever holds candidates, and so do scores and hashes, which stay in every case.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leakaudit.document.command import shown_command, shown_option
from leakaudit.document.disclosure import disclosure_of
from leakaudit.document.schema import Report
from leakaudit.report.domains import card_for

Level = Literal["full", "blurred", "none"]
LEVELS: tuple[Level, ...] = ("full", "blurred", "none")
CELLS = 4
"""Averages per side that are left of a blurred image."""
SMALLEST = 16
"""Pixels per side below which an image is left out, so that an average covers at least 16 of them."""
LARGEST = 96
"""Pixels per side of a blurred image; more would only cost space."""
Section = TypeVar("Section", bound=BaseModel)
R = TypeVar("R", bound=Report)


def redact(report: R, level: Level) -> R:
    """The report at this level, or at its own if that shows less: nothing that was left out comes back."""
    level = LEVELS[max(LEVELS.index(level), LEVELS.index(report.evidence))]
    if level == "full":
        return report
    blurred_before = report.evidence == "blurred"
    mosaics = level == "blurred" and card_for(report).mosaics
    redacted = _section(report, _Pictures(mosaics, blurred_before))
    return redacted.model_copy(update={"evidence": level})


class _Pictures:
    """What becomes of images.

    Args:
        mosaics: A mosaic is left of large ones; otherwise nothing.
        blurred_before: The images are mosaics already, which are not blurred once more.
    """

    def __init__(self, mosaics: bool, blurred_before: bool) -> None:
        self.mosaics = mosaics
        self.blurred_before = blurred_before

    def of(self, value: Any) -> Any:
        """A data URI or a list of them; what cannot be shown is dropped."""
        if isinstance(value, list):
            return [shown for uri in value if (shown := self.of(uri)) is not None]
        if not self.mosaics or not isinstance(value, str):
            return None
        return mosaic(value, keep=self.blurred_before)


def _section(section: Section, pictures: _Pictures) -> Section:
    """A section with every field as it declares."""
    fields = type(section).model_fields
    values = {name: _field(section, name, field, pictures) for name, field in fields.items()}
    return section.model_copy(update=values)


def _field(section: BaseModel, name: str, field: FieldInfo, pictures: _Pictures) -> Any:
    value, declared = getattr(section, name), disclosure_of(field)
    if declared.kind == "public":
        return _public(value, pictures)
    if declared.kind == "picture":
        return pictures.of(value)
    if declared.kind == "file name":
        return file_name(value)
    if declared.kind == "limited":
        return {key: item for key, item in value.items() if key in declared.keys}
    if declared.kind == "option":
        return value if shown_option(getattr(section, "name", "")) else None
    if declared.kind == "command":
        return shown_command(value)
    return empty(field)


def _public(value: Any, pictures: _Pictures) -> Any:
    """A value that may be shown; the sections in it decide field by field."""
    if isinstance(value, BaseModel):
        return _section(value, pictures)
    if isinstance(value, list):
        return [_public(item, pictures) for item in value]
    if isinstance(value, Mapping):
        return {key: _public(item, pictures) for key, item in value.items()}
    return value


def empty(field: FieldInfo) -> Any:
    """What stands in the place of a private value: the field's default, or nothing of its type."""
    if not field.is_required():
        return field.get_default(call_default_factory=True)
    kind = field.annotation
    if kind is Any or type(None) in get_args(kind):
        return None
    plain = get_origin(kind) or kind
    if plain in (list, dict, str, int, float, bool):
        return plain()
    raise TypeError(f"a private field of type {kind} has no empty value: give it a default")


def file_name(path: str | None) -> str | None:
    """The last part of a path of this or another system."""
    return path and PureWindowsPath(PurePosixPath(path).name).name


def mosaic(uri: str, *, keep: bool = False) -> str | None:
    """A PNG data URI of which only 4 × 4 averages are left; ``None`` for a small image, or for what is no image.

    Args:
        uri: The image.
        keep: It is a mosaic already: as it is, if it is large enough.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        array = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError):
        return None
    if min(image.size) < SMALLEST:
        return None
    return uri if keep else _averaged(array)


def _averaged(array: np.ndarray[Any, Any]) -> str:
    """Pixels (H, W) or (H, W, 3) as a data URI of their averages."""
    from PIL import Image

    size = (min(array.shape[1], LARGEST), min(array.shape[0], LARGEST))
    rows = np.array_split(array, CELLS, axis=0)
    means = [[cell.mean((0, 1)) for cell in np.array_split(row, CELLS, axis=1)] for row in rows]
    stream = io.BytesIO()
    Image.fromarray(np.round(means).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(
        stream, format="PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
