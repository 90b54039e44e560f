"""Arrays of numbers from the files that clients, servers and frameworks write: no pickle is run."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leakaudit.errors import ModelError, UpdateError, UsageError
from leakaudit.target.archives import scanned_state_dict

SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")
MAX_BYTES = 8 * 2**30
"""Largest sum of the arrays of a file; chosen: the largest model that this machine class trains."""
NAMELESS = re.compile(r"(?:arr_)?(\d+)")
"""Names that numpy and Flower give to arrays of a list."""


def read_arrays(path: str | Path, option: str = "--update") -> dict[str, Tensor]:
    """Arrays by name, those of a list in its order.

    Args:
        path: ``.npz``, ``.safetensors``, or a state dict of torch (``.pt``, ``.pth``).
        option: Names the file in errors.

    Raises:
        UsageError: It is not there, or of another format.
        UpdateError: It is damaged, or holds nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such update file: {path}", f"pass {option} FILE.npz or FILE.safetensors")
    if path.suffix not in SUFFIXES:
        hint = "save it with numpy.savez(path, **update)"
        raise UsageError(f"{option} {path}: expected {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}", hint)
    found = {".npz": _npz, ".safetensors": _safetensors}.get(path.suffix, _state_dict)(path)
    if not found:
        raise UpdateError(f"{path} holds no arrays", "save it with numpy.savez(path, **update)")
    if all(NAMELESS.fullmatch(name) for name in found):
        return dict(sorted(found.items(), key=lambda item: int(NAMELESS.sub(r"\1", item[0]))))
    return found


def _npz(path: Path) -> dict[str, Tensor]:
    way_out = "save it with numpy.savez(path, **update)"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise UpdateError(f"{path}: unpacks to {size / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:.0f} GiB")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise UpdateError(f"{path} is no readable .npz ({error})", way_out) from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, ValueError) as error:
        way_out = "save it with safetensors.torch.save_file"
        raise UpdateError(f"{path} is no readable .safetensors ({error})", way_out) from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        return dict(scanned_state_dict(path))
    except (ModelError, OSError, zipfile.BadZipFile) as error:
        raise UpdateError(
            f"{path} is no readable state dict ({error})", "save it with torch.save(update, path)"
        ) from error
