"""An attack as users run it: the network exported to ONNX, `leakaudit scan` in its own process, labels inferred."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.domains.images import Images


@dataclass(frozen=True)
class Scanned:
    """What the report says of the only victim, and the seconds of the attack."""

    psnr: float
    seconds: float
    match: float
    notes: tuple[str, ...]


def export(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """The faithful export of the README."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(1, *shape),), str(path), dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["input"], dynamic_axes={"input": {0: "N"}},
        )  # fmt: skip


def scan(
    module: nn.Module, x: Tensor, y: Tensor, space: Images, attack: str, changes: Mapping[str, object], seed: int
) -> Scanned:
    """One sample (1, C, H, W) in 0..1 with its label (1,), preset quick with `changes`, without controls."""
    mean, std = (",".join(map(str, numbers)) for numbers in (space.mean, space.std))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(module, space.shape, folder / "model.onnx")
        np.savez(folder / "batch.npz", x=x.numpy(), y=y.numpy())
        command = [
            str(Path(sys.executable).with_name("leakaudit")), "scan", str(folder / "model.onnx"),
            "--batch", str(folder / "batch.npz"), "--mean", mean, "--std", std, "--victims", "1", "--seed", str(seed),
            "--attack", attack, "--preset", "quick", "--controls", "none", "--no-cache", "--quiet",
            "--out", str(folder / "report"), "--format", "json", "--fail-on", "never",
        ]  # fmt: skip
        for setting, value in changes.items():
            command += ["--set", f"{attack}.{setting}={value}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.loads((folder / "report" / "report.json").read_text())
    (entry,) = (found for found in report["attacks"] if found["name"] == attack)
    (victim,) = entry["results"]
    return Scanned(victim["samples"][0]["psnr"], victim["seconds"], victim["match"], tuple(victim["notes"]))
