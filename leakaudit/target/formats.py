"""Formats by content: what a file is, whatever its name says."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from leakaudit.errors import ModelError

Kind = Literal["onnx", "safetensors", "exported", "torchscript", "checkpoint", "pickle"]


def sniff(path: Path) -> Kind:
    """The kind of a model file.

    Raises:
        ModelError: The content is of no kind known here.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == b"PK\x03\x04":
        return _archive(path)
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "pickle"
    return "onnx"


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{path} is a damaged archive ({error})", "copy or export it again") from error
    inner = [name.partition("/")[2] for name in names]
    if (
        any(name.startswith("models/") and name.endswith(".json") for name in inner)
        or "serialized_exported_program.json" in names
    ):
        return "exported"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "checkpoint"
    raise ModelError(
        f"{path} is an archive that holds no model", "pass an ONNX, .pt2, TorchScript, state-dict or safetensors file"
    )
