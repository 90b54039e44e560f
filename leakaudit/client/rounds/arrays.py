"""Arrays of numbers from the files that clients, servers and frameworks write: no pickle is run."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leakaudit.errors import ModelError, UpdateError, UsageError
from leakaudit.safety.archives import check_arrays, check_unpacked
from leakaudit.safety.confined import confined, grant
from leakaudit.target.archives import scanned_state_dict

SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")
COPIES = 4
"""How often the numbers of a file may stand in memory while they are read; chosen."""
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
    read = {".npz": _npz, ".safetensors": _safetensors}.get(path.suffix, _state_dict)
    found = confined(lambda: read(path), str(path), UpdateError)
    if not found:
        raise UpdateError(f"{path} holds no arrays", "save it with numpy.savez(path, **update)")
    if all(NAMELESS.fullmatch(name) for name in found):
        return dict(sorted(found.items(), key=lambda item: int(NAMELESS.sub(r"\1", item[0]))))
    return found


def _npz(path: Path) -> dict[str, Tensor]:
    way_out = "save it with numpy.savez(path, **update)"
    try:
        check_unpacked(path, UpdateError)
        check_arrays(path, UpdateError)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise UpdateError(f"{path} is no readable .npz ({error})", way_out) from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    grant(COPIES * path.stat().st_size)
    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, ValueError) as error:
        way_out = "save it with safetensors.torch.save_file"
        raise UpdateError(f"{path} is no readable .safetensors ({error})", way_out) from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    grant(COPIES * path.stat().st_size)
    try:
        return dict(scanned_state_dict(path))
    except (ModelError, OSError, zipfile.BadZipFile) as error:
        raise UpdateError(
            f"{path} is no readable state dict ({error})", "save it with torch.save(update, path)"
        ) from error
