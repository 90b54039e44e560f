"""Arrays of an ``.npz`` archive as numbers: nothing is unpickled, and what would unpack to too much is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 8 * 2**30
"""Largest sum of the arrays of a file; chosen: the largest model that this machine class trains."""


def arrays_of(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        ValueError: It is damaged or too large, or an array holds no numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to {size / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:.0f} GiB")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(str(error)) from error
