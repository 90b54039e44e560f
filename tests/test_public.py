"""The public surface: complete, sorted, documented, and silent."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import leakaudit
from tests.conftest import small_mlp, smooth_images


def test_all_is_sorted_complete_and_importable() -> None:
    assert leakaudit.__all__ == sorted(leakaudit.__all__)
    assert set(leakaudit.__all__) == set(leakaudit._HOMES)
    for name in leakaudit.__all__:
        assert getattr(leakaudit, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = leakaudit.nothing


def test_scan_from_python_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    module: nn.Module = small_mlp()
    report = leakaudit.scan(
        module,
        (smooth_images(8), np.arange(8) % 5),
        attacks=["ig"],
        settings={"ig": {"iterations": "150"}},
        victims=1,
        mean=[0.5],
        std=[0.25],
        input_shape=(3, 12, 12),
    )
    assert report.verdict.status.startswith("LEAKS (")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
