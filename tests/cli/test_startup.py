"""What commands import: no compiler, and no package that takes longer than what it is used for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from tests.cli.build import export

HEAVY = {"torch._dynamo", "torch._inductor", "sympy", "torchvision", "onnx2torch", "scipy.stats", "torchmetrics"}
HEAVY |= {"dp_accounting", "matplotlib", "pandas", "weasyprint"}
CODE = """
import json, sys
from contextlib import suppress
from leakaudit.cli import main
sys.argv = ["leakaudit", *sys.argv[1:]]
with suppress(SystemExit):
    main()
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def test_inspecting_a_small_file_imports_no_compiler(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 36),
        nn.LayerNorm(36), nn.Unflatten(1, (4, 3, 3)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 8), nn.Sigmoid(),
        nn.Linear(8, 5),
    )  # fmt: skip
    path = export(cnn, tmp_path / "cnn.onnx")
    words = [sys.executable, "-c", CODE, "inspect", str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "trainable" in ended.stdout
    imported = set(json.loads(ended.stdout.splitlines()[-1]))
    assert not HEAVY & imported, HEAVY & imported


def test_ranking_imports_no_compiler_either(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    path = export(cnn, tmp_path / "cnn.onnx", shape=(3, 8, 8))
    words = [sys.executable, "-c", CODE, "rank", str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "deficit" in ended.stdout
    imported = set(json.loads(ended.stdout.splitlines()[-1]))
    heavy = (HEAVY | {"torch.utils.flop_counter", "scipy.optimize"}) & imported
    assert not heavy, heavy
