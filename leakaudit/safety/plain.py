"""Plain values as bytes and back: numbers, text, lists, tuples, dictionaries, arrays and tensors; never a pickle.

What was written comes back with its types. What is read names nothing that could be imported or called: the structure
is JSON, and what it refers to are runs of bytes with a number type from a table. Whoever reads needs no trust in who
wrote: a child that opened a foreign file, or a file of a cache.

::

    length of the structure, 8 bytes, little-endian | the structure, JSON | the bytes of arrays, one after the other
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_HEAD = 8
_TYPES = frozenset(
    {
        "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64",
        "complex128", "bool",
    }
)  # fmt: skip
"""Number types of tensors, by torch's names."""
PLAIN_KINDS = frozenset("biufcSU")
"""Kinds of NumPy's types that are numbers or text."""


class NotPlain(TypeError):
    """A value of another kind, such as an object or an array of objects."""


def packed(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        NotPlain: It, or something in it, is no plain value.
    """
    buffers: list[bytes] = []
    structure = json.dumps(_noted(value, buffers)).encode("ascii")
    return b"".join([len(structure).to_bytes(_HEAD, "little"), structure, *buffers])


def unpacked(content: bytes) -> Any:
    """The value that :func:`packed` was given; tensors and arrays can be written to.

    Raises:
        ValueError: These are not bytes of that form.
    """
    length = int.from_bytes(content[:_HEAD], "little")
    if length > len(content) - _HEAD:
        raise ValueError("cut off")
    rest = memoryview(content)[_HEAD + length :]
    try:
        reader = _Reader(rest)
        value = reader.value(json.loads(content[_HEAD : _HEAD + length]))
    except (KeyError, TypeError, RecursionError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"damaged: {type(error).__name__}") from error
    if reader.place != len(rest):
        raise ValueError("longer than its structure says")
    return value


def _noted(value: Any, buffers: list[bytes]) -> Any:
    """A value in JSON; whatever JSON lacks is a dictionary with one of our keys."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [_noted(item, buffers) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_noted(item, buffers) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_noted(key, buffers), _noted(item, buffers)] for key, item in value.items()]}
    if isinstance(value, bytes):
        buffers.append(value)
        return {"bytes": len(value)}
    torch, numpy = (sys.modules.get(name) for name in ("torch", "numpy"))  # who has a value has imported its library
    if torch is not None and isinstance(value, torch.Tensor):
        return _noted_tensor(value, buffers)
    if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
        return value.item()
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in PLAIN_KINDS:
        buffers.append(value.tobytes())
        return {"array": list(value.shape), "type": value.dtype.str}
    raise NotPlain(f"{type(value).__name__} is no plain value")


def _noted_tensor(value: Tensor, buffers: list[bytes]) -> Any:
    import torch

    name = str(value.dtype).removeprefix("torch.")
    if name not in _TYPES or value.layout is not torch.strided:
        raise NotPlain(f"a tensor of {value.dtype} with layout {value.layout} is no plain value")
    flat = value.detach().cpu().contiguous().reshape(-1)
    buffers.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return {"tensor": list(value.shape), "type": name}


class _Reader:
    """Takes the bytes of arrays one after the other."""

    def __init__(self, content: memoryview) -> None:
        self.content, self.place = content, 0

    def value(self, noted: Any) -> Any:
        """What a part of the structure stands for."""
        if isinstance(noted, list):
            return [self.value(item) for item in noted]
        if not isinstance(noted, dict):
            return noted
        if "tuple" in noted:
            return tuple(self.value(item) for item in noted["tuple"])
        if "dict" in noted:
            return {self.value(key): self.value(item) for key, item in noted["dict"]}
        if "bytes" in noted:
            return bytes(self._taken(noted["bytes"]))
        return self._tensor(noted) if "tensor" in noted else self._array(noted)

    def _tensor(self, noted: dict[str, Any]) -> Tensor:
        import torch

        if noted["type"] not in _TYPES:
            raise ValueError(f"tensors of {noted['type']} are not read")
        kind, shape = getattr(torch, noted["type"]), _shape(noted["tensor"])
        raw = bytearray(self._taken(math.prod(shape) * kind.itemsize))
        return torch.frombuffer(raw, dtype=kind).reshape(shape) if raw else torch.empty(shape, dtype=kind)

    def _array(self, noted: dict[str, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        kind, shape = np.dtype(str(noted["type"])), _shape(noted["array"])
        if kind.kind not in PLAIN_KINDS:
            raise ValueError(f"arrays of {kind} are not read")
        raw = bytearray(self._taken(math.prod(shape) * kind.itemsize))
        return np.frombuffer(raw, dtype=kind).reshape(shape) if raw else np.empty(shape, kind)

    def _taken(self, size: Any) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self.content) - self.place:
            raise ValueError("cut off")
        self.place += size
        return self.content[self.place - size : self.place]


def _shape(noted: Any) -> list[int]:
    """A shape whose sizes are whole numbers, none of them so large that their product would be cut."""
    if not isinstance(noted, list) or not all(type(size) is int and 0 <= size < 1 << 48 for size in noted):
        raise ValueError("no shape")
    return noted
