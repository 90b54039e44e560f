"""What a ``.pt2`` archive holds: one JSON graph and raw numbers. Nothing else in it is ever opened.

Claim: no byte of the archive is unpickled, imported, evaluated or compiled. ``torch.export.load`` does all four: it
unpickles sample inputs and custom objects, imports the modules that tree specifications name, evaluates sizes by
`sympy.sympify`, and writes names into Python source. It is not used. Here the graph is JSON (`json.loads`), a weight is
raw bytes with a type, a shape and strides, and the members of other torch versions that hold weights as a file of
`torch.save` are read with ``weights_only=True``.

Refused: any member that an export does not have (a pickle, a library, a custom object), names that are equal but for
their case, settings that ask for pickles, tensors that reach beyond their bytes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakaudit.errors import ModelError

MAX_JSON_BYTES = 256 << 20
MAX_REPEATED = 1 << 24
"""Entries that a tensor may have beyond the numbers that are stored for it: strides of 0 repeat them."""
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 9: torch.complex32, 10: torch.complex64, 11: torch.complex128, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""Number types by their code in the file (``ScalarType`` of torch's export schema, version 8)."""
_MEMBERS = re.compile(
    r"models/model\.json|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/(weights|constants)/((weight|tensor)_\w+|model\.pt)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+|extra/[^/]*"
)
_OLD_MEMBERS = re.compile(
    r"serialized_(exported_program|state_dict|constants)\.json|serialized_(state_dict|constants|example_inputs)\.pt"
    r"|version|extra_files/[^/]*"
)
OLD_PROGRAM = "serialized_exported_program.json"


@dataclass(frozen=True, eq=False)
class Contents:
    """An archive, read.

    Args:
        program: The graph as its JSON says it.
        tensors: Weights and buffers by name; tensors that the file stores once are one object.
        constants: Further tensors by name.
    """

    program: Mapping[str, Any]
    tensors: dict[str, Tensor]
    constants: dict[str, Tensor]


def read(path: Path) -> Contents:
    """Read an archive whose sizes were checked by `leakaudit.safety.archives`.

    Raises:
        ModelError: It holds something that an export does not, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, _members(archive, path), path)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise ModelError(f"{path} is a damaged archive ({error})", "copy or export it again") from error


def _refuse(path: Path, name: str, reason: str) -> ModelError:
    return ModelError(
        f"{path}: {name!r} {reason}; opening it could run code",
        "export it again with torch.export.save, without custom objects",
    )


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members by their name below the archive's own folder."""
    names = [member.filename for member in archive.infolist()]
    if len({name.casefold() for name in names}) < len(names):
        raise ModelError(f"{path} holds two files of one name", "it is damaged or hostile")
    old = OLD_PROGRAM in names
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        inner = member.filename if old else member.filename.partition("/")[2]
        if member.is_dir():
            continue
        if not (_OLD_MEMBERS if old else _MEMBERS).fullmatch(inner) or not inner.isascii():
            reason = "is no part of an exported program: a pickle, a compiled library or a custom object"
            raise _refuse(path, member.filename, reason)
        if inner in found:
            raise ModelError(f"{path} holds two files of one name", "it is damaged or hostile")
        found[inner] = member
    return found


def _read(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path) -> Contents:
    def content(inner: str) -> bytes:
        return archive.read(members[inner])

    def parsed(inner: str) -> Any:
        if inner not in members:
            raise ModelError(f"{path} lacks {inner!r}", "it is no complete export: copy or export it again")
        if members[inner].file_size > MAX_JSON_BYTES:
            raise _refuse(path, inner, f"has {members[inner].file_size} bytes, too many for a graph")
        try:
            return json.loads(content(inner))
        except (ValueError, RecursionError):
            raise _refuse(path, inner, "is not JSON") from None

    if "byteorder" in members and content("byteorder").strip() != b"little":
        raise ModelError(f"{path} holds numbers in big-endian order", "export it on a little-endian machine")
    if OLD_PROGRAM in members:
        saved = {part: _old(members, content, part, path) for part in ("state_dict", "constants")}
        return Contents(_mapping(parsed(OLD_PROGRAM), path), saved["state_dict"], saved["constants"])
    stored: dict[str, dict[str, Tensor]] = {}
    for part in ("weights", "constants"):
        if f"data/{part}/model.pt" in members:
            stored[part] = _saved(content(f"data/{part}/model.pt"), f"data/{part}/model.pt", path)
            continue
        config = _mapping(_mapping(parsed(f"data/{part}/model_{part}_config.json"), path).get("config"), path)
        stored[part] = _stored(config, f"data/{part}/", members, content, path)
    return Contents(_mapping(parsed("models/model.json"), path), stored["weights"], stored["constants"])


def _mapping(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not describe a program", "it is damaged: export or copy it again")
    return value


def _old(members: Mapping[str, Any], content: Callable[[str], bytes], part: str, path: Path) -> dict[str, Tensor]:
    """Tensors of the format before torch 2.8: a file of `torch.save`, whose name once ended in ``.json``."""
    name = next((n for n in (f"serialized_{part}.pt", f"serialized_{part}.json") if n in members), None)
    return {} if name is None else _saved(content(name), name, path)


def _saved(content: bytes, name: str, path: Path) -> dict[str, Tensor]:
    """Tensors by name from a file of `torch.save`."""
    if not content:
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            if sum(entry.file_size for entry in inner.infolist()) > 2 * len(content) + (1 << 20):
                raise _refuse(path, name, "grows when it is unpacked")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # torch raises bare exceptions of many types for what it refuses
        raise _refuse(path, name, "is a pickle of more than numbers") from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) and isinstance(k, str) for k, t in found.items()):
        raise _refuse(path, name, "is a pickle of more than tensors by name")
    return dict(found)


def _stored(
    config: Mapping[str, Any],
    folder: str,
    members: Mapping[str, zipfile.ZipInfo],
    content: Callable[[str], bytes],
    path: Path,
) -> dict[str, Tensor]:
    """Tensors by name from raw bytes and their settings."""
    found: dict[str, Tensor] = {}
    bytes_of: dict[tuple[str, torch.dtype], Tensor] = {}
    made: dict[str, Tensor] = {}
    for name, entry in config.items():
        file = str(_mapping(entry, path).get("path_name"))
        if entry.get("use_pickle") is not False:
            raise _refuse(path, name, "asks for a pickle")
        if not re.fullmatch(r"(weight|tensor)_\w+", file) or folder + file not in members:
            raise _refuse(path, name, f"is stored in {file[:80]!r}, which is no file of numbers")
        key = json.dumps([file, entry.get("tensor_meta")])
        if key not in made:
            try:
                dtype, shape, strides, offset = _layout(entry["tensor_meta"])
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ModelError(f"{path}: tensor {name!r} has no readable shape", "export it again") from None
            if (file, dtype) not in bytes_of:
                bytes_of[file, dtype] = _numbers(content(folder + file), dtype, name, path)
            made[key] = _view(bytes_of[file, dtype], shape, strides, offset, name, path)
            made[key].requires_grad_(entry["tensor_meta"].get("requires_grad") is True and dtype.is_floating_point)
        found[name] = made[key]
    return found


def _layout(meta: Mapping[str, Any]) -> tuple[torch.dtype, list[int], list[int], int]:
    """Type, shape, strides and offset of a stored tensor; all are plain numbers."""
    shape, strides = ([whole(size) for size in meta[key]] for key in ("sizes", "strides"))
    if len(shape) != len(strides):
        raise ValueError("shape and strides differ in length")
    return DTYPES[meta["dtype"]], shape, strides, whole(meta["storage_offset"])


def whole(size: Any) -> int:
    """A size that is a plain number of the file.

    Raises:
        ValueError: It is an expression, negative or no number.
    """
    value = size["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _numbers(content: bytes, dtype: torch.dtype, name: str, path: Path) -> Tensor:
    if len(content) % dtype.itemsize:
        raise ModelError(
            f"{path}: tensor {name!r} has {len(content)} bytes, no whole number of {dtype}", "copy it again"
        )
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _view(base: Tensor, shape: list[int], strides: list[int], offset: int, name: str, path: Path) -> Tensor:
    """The tensor of a shape and strides within its bytes; a copy of its own."""
    if prod(shape) == 0:
        return torch.empty(shape, dtype=base.dtype)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if end > base.numel() or prod(shape) > max(base.numel(), MAX_REPEATED):
        raise ModelError(
            f"{path}: tensor {name!r} of shape {shape} reaches beyond the {base.numel()} numbers stored for it",
            "the file is damaged: copy or export it again",
        )
    return torch.as_strided(base, shape, strides, offset).detach()
