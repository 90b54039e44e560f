"""What GI-PIP, tried in passing, adds to the time of a plain scan of preset standard: with and without it, in turns.

    python benchmarks/gi_pip_share.py [demo|cnn] [--steps N] [--rounds 1]

*demo*: the quickstart example (GELU, 48 photographs' crops). *cnn*: a ReLU CNN of 26,000 parameters with 100 CIFAR-10
test images, whose other samples GI-PIP learns from. With fewer `--steps` than the 6,000 of the preset, IG and GI-PIP
keep their proportion. The scan without it names all other default attacks. Seconds are of the process, so that others
on the machine do not count. The bar is a ratio of at most 1.5. Results in `benchmarks/results/gi_pip.md`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from networks import cifar
from torch import nn

import leakaudit
from leakaudit.attacks.gi_pip import GIPIP
from leakaudit.attacks.ig import IG
from leakaudit.attacks.registry import available

ROOT = Path(__file__).parents[1]
BAR = 1.5


def cnn() -> nn.Module:
    """Three convolutions of ReLU units and a linear head for 32 px."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 48)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))


def demo() -> tuple[Any, Any, dict[str, Any]]:
    """The quickstart example's model and batch."""
    folder = ROOT / "examples" / "quickstart"
    subprocess.run([sys.executable, folder / "make_example.py"], check=True, stdout=subprocess.DEVNULL)
    return folder / "model.onnx", folder / "batch.npz", {}


def pictures() -> tuple[Any, Any, dict[str, Any]]:
    """The CNN and its images."""
    torch.manual_seed(0)
    x, y = cifar()
    keywords = {"mean": [0.47], "std": [0.25], "input_shape": (3, 32, 32), "victims": 2}
    return cnn(), (x[:100].numpy(), y[:100].numpy()), keywords


CASES = {"demo": demo, "cnn": pictures}


def seconds(case: str, names: list[str]) -> tuple[float, Any]:
    """Processor time of a scan with these attacks, or all by default, and its row of GI-PIP."""
    model, batch, keywords = CASES[case]()
    started = time.process_time()
    report = leakaudit.scan(model, batch, attacks=names, preset="standard", device="cpu", cache=False, **keywords)
    took = time.process_time() - started
    return took, next(attack for attack in report.attacks if attack.name == "gi-pip")


def shorter(steps: int) -> None:
    """Both presets with so many steps."""
    for kind in (IG, GIPIP):
        kind.presets = {**kind.presets, "standard": replace(kind.presets["standard"], iterations=steps)}  # type: ignore[attr-defined]


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(tuple(CASES)))
@click.option("--steps", default=6000)
@click.option("--rounds", default=1)
def main(cases: tuple[str, ...], steps: int, rounds: int) -> None:
    """Print a line for every case; exit with 1 where the bar is missed."""
    torch.set_num_threads(1)
    shorter(steps)
    others = [name for name, attack in available().items() if attack.by_default and name != "gi-pip"]
    missed = False
    for case in cases or CASES:
        for number in range(rounds):
            without, _ = seconds(case, others)
            whole, row = seconds(case, [])
            iterations = sum(result.iterations for result in row.results)
            click.echo(
                f"{case}, round {number}: {without:.1f} s without, {whole:.1f} s with GI-PIP ({row.status}, "
                f"{iterations} steps): ratio {whole / without:.2f}"
            )
            missed |= whole > BAR * without
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
