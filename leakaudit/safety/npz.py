"""Arrays of an ``.npz`` archive as numbers: nothing is unpickled, and what would unpack to too much is refused."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leakaudit.errors import AuditError
from leakaudit.safety.archives import check_arrays, check_unpacked


def arrays_of(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        ValueError: It is damaged or too large, or an array holds no numbers.
    """
    try:
        check_unpacked(path, AuditError)
        check_arrays(path, AuditError)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except AuditError as error:
        raise ValueError(error.message) from error
    except (OSError, TypeError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise ValueError(str(error)) from error
