"""IG against the figures of its authors' code, through the command line on exported ONNX files.

    python benchmarks/ig_anchor.py [--out benchmarks/results/ig_anchor.md]

Two networks of the dropout-inversion authors' family, four CIFAR-10 victims each, batch size 1, TV weight 1e-5:
an MLP 3072-512-512-512-10 (GELU, no bias) for 600 iterations and a LeNet-style network (GELU) for 1,500. The authors'
code reaches 40.3 dB and 19.9 dB on them. Needs the CIFAR-10 sample in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import click
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LEAKAUDIT_DATA", ROOT.parent / "shared" / "data"))
MEAN, STD = "0.49147,0.48226,0.44677", "0.24703,0.24349,0.26159"


def mlp() -> nn.Module:
    """The MLP, 2,102,272 parameters."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width_in in (3072, 512, 512):
        layers += [nn.Linear(width_in, 512, bias=False), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(512, 10, bias=False))


def lenet() -> nn.Module:
    """The LeNet-style network, 207,570 parameters."""
    layers: list[nn.Module] = []
    for channels, stride in ((3, 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(channels, 12, 5, stride, 2), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 256), nn.GELU(), nn.Linear(256, 10))


CASES = {"MLP": (mlp, 600, 40.3, 35.0), "LeNet": (lenet, 1500, 19.9, 18.0)}


def measure(module: nn.Module, iterations: int, folder: Path) -> list[float]:
    """PSNR of each victim, by ``leakaudit scan``."""
    model = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(1, 3, 32, 32),), str(model), dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["input"], dynamic_axes={"input": {0: "N"}},
        )  # fmt: skip
    command = [
        sys.executable, "-c", "from leakaudit.cli import main; main()", "scan", str(model),
        "--batch", str(DATA / "images" / "cifar10_test.npz"), "--mean", MEAN, "--std", STD, "--victims", "4",
        "--attack", "ig", "--preset", "quick", "--set", f"ig.iterations={iterations}", "--set", "ig.tv_weight=1e-5",
        "--out", str(folder / "report"), "--format", "json", "--fail-on", "never", "-q",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    document = json.loads((folder / "report" / "report.json").read_text())
    return [s["psnr"] for r in document["attacks"][0]["results"] for s in r["samples"]]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(out: Path | None) -> None:
    """Measure both and print the table."""
    rows = [
        "| network | iterations | PSNR per victim, dB | median | authors' code | bar |",
        "|---|---|---|---|---|---|",
    ]
    for name, (build, iterations, authors, bar) in CASES.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            psnr = measure(build(), iterations, Path(folder))
        values = ", ".join(f"{p:.1f}" for p in psnr)
        rows.append(f"| {name} | {iterations} | {values} | {statistics.median(psnr):.1f} | {authors} | ≥ {bar:g} |")
    table = "\n".join([*rows, "", f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, CPU"])
    click.echo(table)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
