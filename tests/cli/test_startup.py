"""What small commands import: no compiler, and no package that takes longer than they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
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
NORMALISED = [nn.Flatten(), nn.Linear(36, 36), nn.LayerNorm(36), nn.Unflatten(1, (4, 3, 3)), nn.BatchNorm2d(4)]
"""For `rank`, torch has the forward derivative of these in Python only, and imports its compiler for that."""


@pytest.mark.parametrize(("command", "told", "more"), [("inspect", "trainable", NORMALISED), ("rank", "risk", [])])
def test_a_small_command_imports_no_compiler(command: str, told: str, more: list[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.GELU(), nn.MaxPool2d(2), *more, nn.Flatten(), nn.Linear(36, 8),
        nn.Sigmoid(), nn.Linear(8, 5),
    )  # fmt: skip
    path = export(cnn, tmp_path / "cnn.onnx")
    words = [sys.executable, "-c", CODE, command, str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert told in ended.stdout
    imported = set(json.loads(ended.stdout.splitlines()[-1]))
    assert not HEAVY & imported, HEAVY & imported
