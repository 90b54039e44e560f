"""How a model's own input shape is to be read: as an image, a signal, a volume, or token ids as an image of one row.

=========  ========================  ==========================================================
layout     one sample, as the model  read as
=========  ========================  ==========================================================
NCHW       (C, H, W)                 an image; NHWC with the channels last, HW without channels
NCL        (C, L)                    a signal; NLC with the channels last, L without channels
NCDHW      (C, D, H, W)              a volume; NDHWC with the channels last, DHW without them
flat       (D,)                      a vector
tokens     (L,)                      token ids
=========  ========================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.schema import Column, Part
from leakaudit.domains.several import Member, Several
from leakaudit.domains.signals import Signals
from leakaudit.domains.table import Table
from leakaudit.domains.tokens import Tokens
from leakaudit.domains.volumes import Volumes
from leakaudit.errors import ModelError
from leakaudit.target.consumer import Consumer
from leakaudit.target.target import LAST, Layout
from leakaudit.target.tokens import LENGTHS

_CHANNELS = (1, 3)
SMALLEST_SIDE = 8
"""A vector of numbers that makes a square picture of this side at least is taken for one, and else for the row of a
table; below it two axes are no picture without channels. The smallest known data set of pictures has 8 (scikit-learn's
digits)."""
DEFAULT_SIDES = (32, 64, 224)
"""Heights and widths tried where the file leaves them open."""
VOLUME_SIDES = (16, 32, 64)
"""The same of volumes."""


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
    if len(shape) not in (1, 2, 3, 4):
        raise ModelError(
            f"{path} takes inputs of rank {len(shape) + 1} {_show(shape)}; expected (N, C, H, W), (N, H, W), (N, D), "
            "signals (N, C, L) or volumes (N, C, D, H, W)",
            "video and sequences of feature maps are not supported yet",
        )
    layout: Layout = "flat" if len(shape) == 1 else "HW" if len(shape) == 2 else _order(shape)
    if image_shape is not None and len(image_shape) != 3 and len(image_shape) == len(shape):
        return layout, _either_order(shape, image_shape, path)
    if image_shape is not None:
        native = from_image(layout, image_shape)
        if len(native) != len(shape) or any(
            known not in (None, given) for known, given in zip(shape, native, strict=True)
        ):
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
    return layout, [_filled(shape, layout, side) for side in (DEFAULT_SIDES if len(shape) < 4 else VOLUME_SIDES)]


def _either_order(shape: tuple[int | None, ...], sample: tuple[int, ...], path: str) -> list[tuple[int, ...]]:
    """A signal or volume of the user as the model may take it, channels first or last, as far as the file allows."""
    orders = dict.fromkeys([sample, (*sample[1:], sample[0])])
    fitting = [o for o in orders if all(known in (None, given) for known, given in zip(shape, o, strict=True))]
    if not fitting:
        raise ModelError(
            f"{path} takes samples of shape {_show(shape)}, but the input shape asks for {sample}",
            "correct the input shape, given as channels, length or channels, depth, height, width",
        )
    return fitting


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
    first, *_, last = shape
    behind = first not in _CHANNELS and (last in _CHANNELS or (last == 4 and first != 4))
    if len(shape) == 4:
        return "NDHWC" if behind else "NCDHW"
    return "NHWC" if behind else "NCHW"


def _filled(shape: tuple[int | None, ...], layout: Layout, side: int) -> tuple[int, ...]:
    channel = {"NCHW": 0, "NHWC": 2, "NCDHW": 0, "NDHWC": 3}.get(layout)
    channels = 3 if len(shape) == 3 else 1
    return tuple((channels if axis == channel else side) if size is None else size for axis, size in enumerate(shape))


def settled(layout: Layout, native: tuple[int, ...], found: Consumer, given: tuple[int, ...] | None = None) -> Layout:
    """How a native shape of real numbers is to be read, with what reads it first.

    Args:
        layout: As its rank alone suggests.
        native: Shape of one sample as the model takes it.
        found: The first operator with a trained tensor.
        given: Shape of a sample from the user, channels first: its rank overrules what the operator suggests.
    """
    if given is not None and len(given) == 3 and len(native) < 3:
        return layout
    if found.kind == "convolution" and found.axes == 1:
        if len(native) == 1:
            return "L"
        if len(native) == 2:
            return "NLC" if native[1] == found.channels != native[0] else "NCL"
    if len(native) == 2:
        if found.kind == "sequence":
            return "NLC"
        if found.kind == "whole" and min(native) < SMALLEST_SIDE and given is None:
            return "NCL" if native[0] <= native[1] else "NLC"
    if found.kind == "convolution" and found.axes == 3:
        if len(native) == 3:
            return "DHW"
        return "NDHWC" if native[-1] == found.channels != native[0] else "NCDHW"
    if given is not None and len(given) == 2 == len(native):
        return "NCL" if native == given else "NLC"
    return layout


def sample_of(layout: Layout, native: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a signal or volume, channels first, of a native shape."""
    if layout in ("L", "DHW"):
        return (1, *native)
    return (native[-1], *native[:-1]) if layout in LAST else native


def from_image(layout: Layout, image: tuple[int, ...]) -> tuple[int, ...]:
    """The native shape of an image shape ``(C, H, W)``; of another rank as it is."""
    if len(image) != 3:
        return (prod(image),) if layout == "flat" else image
    channels, height, width = image
    if layout == "NCHW":
        return channels, height, width
    if layout == "NHWC":
        return height, width, channels
    if layout == "HW":
        return height * channels, width
    return (channels * height * width,)


def domain_of(
    layout: Layout,
    native: tuple[int, ...],
    given: tuple[int, ...] | None,
    tokens: Tokens | None,
    row: tuple[Sequence[Column], Sequence[Part]] | None = None,
) -> tuple[Domain, int | None]:
    """What a sample is, told from the model's input alone: the one place where a file decides between domains.

    Args:
        layout: How `native` is to be read.
        native: Shape of one sample as the model takes it.
        given: ``(C, H, W)`` from the user.
        tokens: What integer inputs index; ``None`` for real-valued ones.
        row: Columns of a row, and the inputs that hold them, where the file says what a vector is.

    Returns:
        The domain without a normalisation, and the number of ids of a model over token ids.
    """
    if tokens is not None:
        return tokens, tokens.vocabulary
    if row is not None:
        return Table.of(row[0], guessed=True, parts=row[1]), None
    if layout in ("L", "NCL", "NLC"):
        return Signals.plain(sample_of(layout, native)), None
    if layout in ("DHW", "NCDHW", "NDHWC"):
        return Volumes.plain(sample_of(layout, native)), None
    if given is not None and len(given) in (2, 4):  # rows of a vector
        return (Signals if len(given) == 2 else Volumes).plain(given), None
    given = given if given is not None and len(given) == 3 else None
    shape = given or to_image(layout, native)
    guessed = layout == "flat" and given is None
    if guessed and min(shape[-2:]) < SMALLEST_SIDE:
        return Table.plain(native[0]), None
    return Images.plain(shape, guessed=guessed), None


def picture_and_row(
    picture: tuple[str, Layout, tuple[int, ...]],
    given: tuple[int, ...] | None,
    columns: Sequence[Column],
    parts: Sequence[Part],
) -> Domain:
    """What a sample of a picture and the row of a table is.

    Args:
        picture: Name of its input, how its shape is to be read, and that shape.
        given: Its shape from the user, channels first.
        columns: Of the row.
        parts: Inputs that hold them.

    Raises:
        ModelError: The shape from the user is another.
    """
    name, layout, native = picture
    if given is not None and prod(given) != prod(native):
        raise ModelError(
            f"the input {name!r} has the shape {_show(native)}, but the input shape asks for {given}",
            "correct the input shape, given channels first",
        )
    own, _ = domain_of(layout, native, given, None)
    plain = len(parts) == 1 and all(column.kind == "number" for column in columns)
    row = Table.of(columns, guessed=True, parts=() if plain else parts)
    rest = ", ".join(part.name for part in parts)
    return Several.of([Member(name, own, layout in LAST), Member(rest, row)])


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
