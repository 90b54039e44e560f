"""Arrays of numbers from the files that clients, servers and frameworks write: no pickle is run."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from leakaudit.client.rounds.fobs import Sent, read_fobs
from leakaudit.errors import ModelError, UpdateError, UsageError
from leakaudit.safety.confined import confined, grant
from leakaudit.safety.npz import arrays_of
from leakaudit.target.archives import scanned_state_dict

SUFFIXES = (".npz", ".safetensors", ".fobs", ".pt", ".pth")
COPIES = 4
"""How often the numbers of a file may stand in memory while they are read; chosen."""
NAMELESS = re.compile(r"(?:arr_)?(\d{1,9})")
"""Names that numpy and Flower give to arrays of a list."""


def read_arrays(path: str | Path, option: str = "--update") -> dict[str, Tensor]:
    """Arrays by name, those of a list in its order; see :func:`read_sent`."""
    return dict(read_sent(path, option).arrays)


def read_sent(path: str | Path, option: str = "--update") -> Sent:
    """Arrays by name, those of a list in its order, with what the file says they are.

    Args:
        path: ``.npz``, ``.safetensors``, NVFlare's ``.fobs``, or a state dict of torch (``.pt``, ``.pth``).
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
    found, kind, meta = confined(lambda: _found(path), str(path), UpdateError)
    if not found:
        raise UpdateError(f"{path} holds no arrays", "save it with numpy.savez(path, **update)")
    return Sent(ordered(found), kind, meta)


def _found(path: Path) -> tuple[dict[str, Tensor], Any, dict[str, Any]]:
    """In the child: arrays by name, their kind where the file says it, and what else it says."""
    if path.suffix == ".fobs":
        grant(COPIES * path.stat().st_size)
        sent = read_fobs(path)
        return dict(sent.arrays), sent.kind, dict(sent.meta)
    read = {".npz": _npz, ".safetensors": _safetensors}.get(path.suffix, _state_dict)
    return read(path), None, {}


def ordered(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays of a list in its order, others as they are."""
    if all(NAMELESS.fullmatch(name) for name in arrays):
        return dict(sorted(arrays.items(), key=lambda item: int(NAMELESS.sub(r"\1", item[0]))))
    return dict(arrays)


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        return arrays_of(path)
    except ValueError as error:
        raise UpdateError(
            f"{path} is no readable .npz ({error})", "save it with numpy.savez(path, **update)"
        ) from error


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
