"""Large tensors looked at part by part, so that no copy of a whole one is made on the way."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

ENTRIES = 1 << 22
"""Entries of a part: 32 MB in float64; chosen, far below any network whose memory matters."""

_CACHED = 1 << 16
"""Entries of a part that is summed on a processor: 512 kB in float64 stay in its cache, fifteen times as fast as parts
of `ENTRIES` on a network of 67 million; measured."""
HELD = 384 << 20
"""Bytes of an update that are held at once where another is held beside it; chosen: all of ViT-B/16, which has 330 MiB,
in one go, and VGG, whose first fully connected layer alone has 392 MiB, in two."""


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor as flat parts (at most `ENTRIES`,), views where it is contiguous."""
    return tuple(torch.split(tensor.reshape(-1), ENTRIES))


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is infinite or no number."""
    return all(bool(torch.isfinite(part).all()) for part in parts(tensor))


def squared(tensor: Tensor) -> float:
    """The squared norm, summed in float64."""
    return sum(float(part.double().square().sum()) for part in _summed(tensor))


def squared_difference(one: Tensor, other: Tensor) -> float:
    """The squared norm of the difference of two tensors of one shape, summed in float64."""
    pairs = zip(_summed(one), _summed(other), strict=True)
    return sum(float((a - b).double().square().sum()) for a, b in pairs)


def _summed(tensor: Tensor) -> tuple[Tensor, ...]:
    """Flat parts of a size that is fast to sum."""
    size = _CACHED if tensor.device.type == "cpu" else ENTRIES
    return tuple(torch.split(tensor.detach().reshape(-1), size))


def groups(tensors: Mapping[str, Tensor], held: int) -> list[list[str]]:
    """Names of tensors in groups of at most so many bytes each: each goes into the first that has room.

    A larger tensor is a group by itself.
    """
    found: list[list[str]] = []
    room: list[int] = []
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        place = next((index for index, left in enumerate(room) if size <= left), None)
        if place is None:
            found.append([])
            room.append(held)
            place = -1
        found[place].append(name)
        room[place] -= size
    return found


@contextmanager
def only(tensors: Mapping[str, Tensor], names: list[str]) -> Iterator[list[Tensor]]:
    """Inside, of these trainable leaves those of these names alone take derivatives; gives them."""
    others = [tensor for name, tensor in tensors.items() if name not in {*names}]
    for tensor in others:
        tensor.requires_grad_(False)
    try:
        yield [tensors[name] for name in names]
    finally:
        for tensor in others:
            tensor.requires_grad_(True)


_MAPPED = 2 << 20
"""Bytes from which a block is one by itself in a process that keeps little; chosen: the activations of large networks
are, and smaller blocks would cost more time than they save memory."""
_MMAP_THRESHOLD = -3
"""The setting of glibc's ``mallopt`` for that."""


def let_go() -> None:
    """Give memory that is free, and kept by the C library for later, back to the system.

    Of the activations of a large network several hundred MB are kept otherwise, in pieces that what comes next does not
    fit into. Does nothing where the C library has no such call (musl, macOS, Windows).
    """
    _told("malloc_trim", 0)


def keep_little() -> None:
    """From here on, give large blocks of memory back as soon as they are free; takes a tenth more time.

    Does nothing where the C library has no such setting.
    """
    _told("mallopt", _MMAP_THRESHOLD, _MAPPED)


def _told(call: str, *settings: int) -> None:
    function = getattr(ctypes.CDLL(None), call, None) if sys.platform == "linux" else None
    if function is not None:
        function(*settings)
