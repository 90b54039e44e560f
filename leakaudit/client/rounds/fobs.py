"""NVFlare's ``.fobs`` files: what a client sent, read as numbers.

The format is a chain of sections; the first is a MessagePack document in which every object is a map of its class's
name, its data and the name of the class that takes it apart. Here no class is loaded whatever a file names: of all
objects only containers, enums by their value, and arrays are taken, and these only where they stand in the file
(``.npy`` without pickle, or safetensors). A placeholder of a lazy transfer holds no numbers and is refused.

Needs ``msgpack`` (``pip install leakaudit[nvflare]``). Written from NVFlare 2.9's own files.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.rounds.kinds import Kind
from leakaudit.errors import UpdateError, UsageError
from leakaudit.safety.archives import MOST

_HEADER = struct.Struct(">BBQ")
_MAIN = 100
"""Mark of the section with the document; others hold large values apart."""
TYPE, DATA = "__fobs_type__", "__fobs_data__"
KINDS: Mapping[str, Kind] = {"WEIGHTS": "weights", "WEIGHT_DIFF": "delta"}
QUANTISED = ("quantization_type", "quant_state", "quantized_flag")
"""Keys of the meta data that NVFlare's ModelQuantizer leaves."""
WAY_OUT = "save the arrays with numpy.savez(path, **dxo.data), or record rounds with leakaudit.capture.nvflare_filter"


@dataclass(frozen=True, eq=False)
class Sent:
    """What a file holds.

    Args:
        arrays: By name.
        kind: Of NVFlare's data kinds, as far as the file says.
        meta: What else it says, such as the number of steps.
    """

    arrays: Mapping[str, Tensor]
    kind: Kind | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_fobs(path: Path) -> Sent:
    """The arrays of a file.

    Raises:
        UsageError: ``msgpack`` is not installed.
        UpdateError: It is damaged, quantised, or holds placeholders in place of arrays.
    """
    try:
        document = _taken_apart(_document(path), str(path))
    except RecursionError as error:
        raise UpdateError(f"{path} is nested too deeply", WAY_OUT) from error
    kind, meta, arrays = _dxo(document)
    if quantised := [name for name in QUANTISED if meta.get(name)]:
        raise UpdateError(
            f"{path} went through NVFlare's ModelQuantizer ({quantised[0]} {meta[quantised[0]]!r:.40})",
            "record it before the quantizer, or after the server's dequantizer",
        )
    if not arrays:
        raise UpdateError(f"{path} holds no arrays", WAY_OUT)
    return Sent(arrays, KINDS.get(str(kind)), meta)


def _document(path: Path) -> Any:
    """The first section, with classes as plain maps."""
    try:
        import msgpack
    except ImportError as error:
        raise UsageError(f"reading {path} needs msgpack", "pip install leakaudit[nvflare]") from error
    if path.stat().st_size > MOST:
        raise UpdateError(f"{path} has more than {MOST / 2**30:.0f} GiB", WAY_OUT)
    content = path.read_bytes()
    try:
        mark, _, size = _HEADER.unpack_from(content)
        if mark != _MAIN or _HEADER.size + size > len(content):
            raise ValueError("no section of a document")
        return msgpack.unpackb(content[_HEADER.size : _HEADER.size + size], strict_map_key=False)
    except (ValueError, TypeError, struct.error, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise UpdateError(f"{path} is no readable .fobs ({error})", WAY_OUT) from error


def _taken_apart(value: Any, path: str, name: str = "") -> Any:
    """A value without its classes: containers, numbers, text, and tensors.

    Raises:
        UpdateError: An array does not stand in the file.
    """
    if isinstance(value, Mapping) and TYPE in value:
        kind, data = str(value[TYPE]), value.get(DATA)
        if kind in ("numpy.ndarray", "torch.Tensor"):
            return _array(data, kind, path, name)
        return _taken_apart(data, path, name)
    if isinstance(value, Mapping):
        return {key: _taken_apart(item, path, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_taken_apart(item, path, name) for item in value]
    return value


def _array(data: Any, kind: str, path: str, name: str) -> Tensor:
    """One array; `name` is for errors."""
    held = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(held, bytes) or data.get("type") != "native":
        raise UpdateError(f"{path}: {name} is a placeholder of a lazy transfer, no array", WAY_OUT)
    try:
        if kind == "numpy.ndarray":
            return torch.from_numpy(np.load(io.BytesIO(held), allow_pickle=False))
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            found: Tensor = next(iter(load(held).values()))
            return found
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    except (ValueError, TypeError, EOFError, StopIteration) as error:
        raise UpdateError(f"{path}: {name} is no readable array ({error})", WAY_OUT) from error


def _dxo(document: Any) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
    """Kind, meta data and arrays of a DXO; of anything else the arrays of the first map that holds some."""
    if isinstance(document, list) and len(document) >= 3 and isinstance(document[2], Mapping):
        kind, meta, data = document[:3]
        return kind, dict(meta) if isinstance(meta, Mapping) else {}, _tensors(data)
    return None, {}, _first_arrays(document)


def _tensors(data: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in data.items() if isinstance(tensor, Tensor)}


def _first_arrays(value: Any) -> dict[str, Tensor]:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = _tensors(value) if isinstance(value, Mapping) else {}
    return own or next(filter(None, map(_first_arrays, items)), {})
