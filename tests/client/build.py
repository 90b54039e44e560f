"""Sample files for tests of readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save(folder: Path, **arrays: np.ndarray) -> Path:
    """An ``.npz`` of these arrays in a folder."""
    np.savez(folder / "batch.npz", **arrays)
    return folder / "batch.npz"
