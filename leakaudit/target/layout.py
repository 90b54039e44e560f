"""How a model's own input shape is to be read as an image, and a sequence of token ids as an image of one row."""

from __future__ import annotations

from math import isqrt, prod

from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.table import Table
from leakaudit.domains.tokens import Tokens
from leakaudit.errors import ModelError
from leakaudit.target.target import Layout
from leakaudit.target.tokens import LENGTHS

_CHANNELS = (1, 3)
SMALLEST_SIDE = 8
"""A vector of numbers that makes a square picture of this side at least is taken for one, and else for the row of a
table; 8 is that of the smallest known data set of pictures (scikit-learn's digits)."""
DEFAULT_SIDES = (32, 64, 224)
"""Heights and widths tried where the file leaves them open."""


def infer(
    shape: tuple[int | None, ...], image_shape: tuple[int, ...] | None, path: str, *, tokens: bool = False
) -> tuple[Layout, list[tuple[int, ...]]]:
    """Layout and candidate native shapes of one sample.

    Args:
        shape: Dimensions of the model's input without the batch axis, ``None`` where symbolic.
        image_shape: ``(C, H, W)`` from the user, for symbolic dimensions.
        path: For messages.
        tokens: Whether the input takes integers, so token ids (B, L).

    Raises:
        ModelError: No image or sequence can be meant, or ``image_shape`` contradicts the file.
    """
    if tokens:
        return "tokens", _lengths(shape, image_shape, path)
    if len(shape) not in (1, 2, 3):
        raise ModelError(
            f"{path} takes inputs of rank {len(shape) + 1} {_show(shape)}; images need "
            "(N, C, H, W), (N, H, W) or (N, D)",
            "video, volumes and sequences of feature maps are not supported yet",
        )
    layout: Layout = "flat" if len(shape) == 1 else "HW" if len(shape) == 2 else _order(shape)
    if image_shape is not None:
        native = from_image(layout, image_shape)
        if any(known not in (None, given) for known, given in zip(shape, native, strict=True)):
            raise ModelError(
                f"{path} takes samples of shape {_show(shape)}, but the image shape {image_shape} makes them {native}",
                "correct the image shape, given as channels, height, width",
            )
        return layout, [native]
    if None not in shape:
        return layout, [tuple(size for size in shape if size is not None)]
    if layout == "flat":
        raise ModelError(
            f"{path} does not say how long its input is", "pass the image shape as channels, height, width"
        )
    return layout, [_filled(shape, layout, side) for side in DEFAULT_SIDES]


def _lengths(shape: tuple[int | None, ...], image_shape: tuple[int, ...] | None, path: str) -> list[tuple[int, ...]]:
    """Candidate native shapes ``(L,)`` of one sequence of token ids."""
    if len(shape) != 1:
        raise ModelError(
            f"{path} takes integers of rank {len(shape) + 1} {_show(shape)}, expected token ids (N, L)",
            "export a model that takes one sequence of ids per sample",
        )
    given = None if image_shape is None else prod(image_shape)
    if given is not None and shape[0] not in (None, given):
        raise ModelError(
            f"{path} takes sequences of {shape[0]} tokens, but the input shape asks for {given}",
            "correct the input shape: it is the number of tokens",
        )
    length = given or shape[0]
    return [(length,)] if length else [(size,) for size in LENGTHS]


def _show(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _order(shape: tuple[int | None, ...]) -> Layout:
    """Channels last if only the last dimension can be a number of channels."""
    first, _, last = shape
    if first in _CHANNELS:
        return "NCHW"
    if last in _CHANNELS or (last == 4 and first != 4):
        return "NHWC"
    return "NCHW"


def _filled(shape: tuple[int | None, ...], layout: Layout, side: int) -> tuple[int, ...]:
    channel = {"NCHW": 0, "NHWC": 2}.get(layout)
    return tuple((3 if axis == channel else side) if size is None else size for axis, size in enumerate(shape))


def from_image(layout: Layout, image: tuple[int, ...]) -> tuple[int, ...]:
    """The native shape of an image shape ``(C, H, W)``."""
    channels, height, width = image
    if layout == "NCHW":
        return channels, height, width
    if layout == "NHWC":
        return height, width, channels
    if layout == "HW":
        return height * channels, width
    return (channels * height * width,)


def domain_of(
    layout: Layout, native: tuple[int, ...], given: tuple[int, ...] | None, tokens: Tokens | None
) -> tuple[Domain, int | None]:
    """What a sample is, told from the model's input alone: the one place where a file decides between domains.

    Args:
        layout: How `native` is to be read.
        native: Shape of one sample as the model takes it.
        given: ``(C, H, W)`` from the user.
        tokens: What integer inputs index; ``None`` for real-valued ones.

    Returns:
        The domain without a normalisation, and the number of ids of a model over token ids.
    """
    if tokens is not None:
        return tokens, tokens.vocabulary
    shape = given or to_image(layout, native)
    guessed = layout == "flat" and given is None
    if guessed and min(shape[-2:]) < SMALLEST_SIDE:
        return Table.plain(native[0]), None
    return Images.plain(shape, guessed=guessed), None


def to_image(layout: Layout, native: tuple[int, ...]) -> tuple[int, int, int]:
    """The image shape ``(C, H, W)`` of a native shape.

    A vector of n numbers is a grey square image if n is a square, a coloured one if n/3 is, and else a row.
    """
    if layout == "NCHW":
        return native[0], native[1], native[2]
    if layout == "NHWC":
        return native[2], native[0], native[1]
    if layout == "HW":
        return 1, native[0], native[1]
    if layout == "tokens":
        return 1, 1, native[0]
    (count,) = native
    for channels in _CHANNELS:
        side = isqrt(count // channels)
        if count > 1 and channels * side * side == count:
            return channels, side, side
    return 1, 1, count
