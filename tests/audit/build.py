"""One small audit through the Python interface."""

from __future__ import annotations

import numpy as np
from torch import nn

import leakaudit
from tests.conftest import smooth_images

SHAPE = (3, 12, 12)


def scan(module: nn.Module, **options: object) -> leakaudit.Report:
    """An audit of one victim among twelve smooth images, by a short IG unless ``options`` say otherwise."""
    defaults: dict[str, object] = {
        "attacks": ["ig"], "settings": {"ig": {"iterations": "30"}}, "victims": 1, "mean": [0.5], "std": [0.25],
        "input_shape": SHAPE,
    }  # fmt: skip
    return leakaudit.scan(module, (smooth_images(12), np.arange(12) % 5), **{**defaults, **options})  # type: ignore[arg-type]
