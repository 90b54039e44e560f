"""The public surface: complete, sorted, documented, and silent."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from torch import nn

import leakaudit
from tests.conftest import ROOT, small_mlp, smooth_images


def test_all_is_sorted_complete_and_importable() -> None:
    assert leakaudit.__all__ == sorted(leakaudit.__all__)
    assert set(leakaudit.__all__) == set(leakaudit._HOMES)
    for name in leakaudit.__all__:
        assert getattr(leakaudit, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = leakaudit.nothing


def test_the_bases_of_all_extensions_are_public() -> None:
    wanted = {
        "Attack",
        "Reconstruction",
        "NotApplicable",
        "Monitor",
        "Defence",
        "ClientStep",
        "Channel",
        "Check",
        "Guarantee",
    }
    wanted |= {"Format", "Reader", "Policy", "apply_policy", "redact", "defend"}
    assert wanted <= set(leakaudit.__all__)
    assert set(leakaudit.__all__) <= set(dir(leakaudit))


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
    for name in leakaudit.__all__:
        public = getattr(leakaudit, name)
        where = "leakaudit.errors" if public.__module__ == "leakaudit.errors" else f"{public.__module__}.{name}"
        assert f"::: {where}" in page, f"{name} is missing in docs/api.md"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, leakaudit; print([m for m in ('torch', 'numpy', 'pydantic', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
