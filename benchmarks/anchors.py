"""IG, WIA and DIA against the figures of the dropout-inversion authors' code, on CIFAR-10 victims, batch size 1.

    python benchmarks/anchors.py [CASE ...] [--victims 4] [--out benchmarks/results/anchors.md]

Rows with a number of steps run the attack's own objective for that many steps, as the authors' code did; rows named
*standard* run that preset. PSNR in 0..1, median and range over the victims. Needs the CIFAR-10 sample in
$LEAKAUDIT_DATA.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from networks import ViT, cifar, lenet, lenet_zhu, mlp, psnr, target, victim
from torch import nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.dia import DIA
from leakaudit.attacks.dlg import DLG
from leakaudit.attacks.idlg import IDLG
from leakaudit.attacks.ig import IG
from leakaudit.attacks.wia import WIA


@dataclass(frozen=True)
class Case:
    """One row: a network, an attack, the steps (0: preset standard), the authors' figure and the bar, in dB."""

    build: Callable[[], nn.Module]
    attack: type[Attack]
    steps: int
    authors: str
    bar: str
    changes: tuple[tuple[str, object], ...] = ()


PLAIN = (("read", False), ("polish", False))
CASES = {
    "mlp ig": Case(mlp, IG, 600, "40.3", "≥ 40"),
    "mlp .5 ig": Case(lambda: mlp(0.5), IG, 600, "14.6", "≤ 18"),
    "mlp .5 wia": Case(lambda: mlp(0.5), WIA, 600, "36.7", "≥ 36"),
    "mlp .5 dia": Case(lambda: mlp(0.5), DIA, 600, "27.5", "≥ 30"),
    "mlp .5 dia plain": Case(lambda: mlp(0.5), DIA, 600, "27.5", "", PLAIN),
    "lenet ig": Case(lenet, IG, 1500, "19.9", "≥ 20"),
    "lenet .5 ig": Case(lambda: lenet(0.5), IG, 1500, "8.6", "≤ 11"),
    "lenet .5 wia": Case(lambda: lenet(0.5), WIA, 1500, "19.1", "≥ 20"),
    "lenet .5 dia": Case(lambda: lenet(0.5), DIA, 1500, "19.8", "≥ 20"),
    "lenet .5 dia plain": Case(lambda: lenet(0.5), DIA, 1500, "19.8", "", PLAIN),
    "lenet .5 dia unread": Case(lambda: lenet(0.5), DIA, 1500, "19.8", "", (("read", False),)),
    "lenet .5 dia standard": Case(lambda: lenet(0.5), DIA, 0, "19.8", "≥ 33 in 10 s"),
    "lenet conv .25 dia": Case(lambda: lenet(0.25, 0.25), DIA, 1500, "11.6", "≥ 14"),
    "lenet ig standard": Case(lenet, IG, 0, "", "≥ 40 in 10 s"),
    "lenet-zhu ig standard": Case(lenet_zhu, IG, 0, "~46", "≥ 40 in 60 s"),
    "lenet-zhu idlg standard": Case(lenet_zhu, IDLG, 0, "~46", ""),
    "lenet-zhu dlg standard": Case(lenet_zhu, DLG, 0, "", ""),
    "lenet relu ig standard": Case(lambda: lenet(activation=nn.ReLU), IG, 0, "", ""),
    "vit .1 wia": Case(lambda: ViT(0.1), WIA, 2600, "27.9", "≥ 28"),
    "vit .1 dia": Case(lambda: ViT(0.1), DIA, 2600, "21.5", "≥ 22"),
}


def measure(case: Case, victims: int) -> tuple[list[float], list[float]]:
    """PSNR and seconds of each victim."""
    images, labels = cifar()
    quality, seconds = [], []
    for number in range(victims):
        x, y = images[40 * number : 40 * number + 1], labels[40 * number : 40 * number + 1]
        net = target(case.build)
        observation = victim(net, x, y, seed=number)
        settings = case.attack.presets["standard"]
        if case.steps:
            settings = replace(case.attack.presets["quick"], iterations=case.steps, tv_weight=1e-5)
        attack = case.attack(replace(settings, **dict(case.changes)))
        if case.attack is not WIA:
            observation = replace(observation, masks=None)
        result = attack(net, observation, cpu_generator(number))
        quality.append(psnr(result.inputs, x))
        seconds.append(result.seconds)
    return quality, seconds


@click.command()
@click.argument("names", nargs=-1)
@click.option("--victims", default=4, show_default=True, help="Victims per case.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(names: tuple[str, ...], victims: int, out: Path | None) -> None:
    """Measure the cases (all by default) and print a row for each."""
    torch.set_num_threads(1)
    rows = [
        "| case | steps | median PSNR, dB (range) | seconds each | authors' code | bar |",
        "|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(rows))
    for name in names or tuple(CASES):
        case = CASES[name]
        quality, seconds = measure(case, victims)
        spread = f"{statistics.median(quality):.1f} ({min(quality):.1f}–{max(quality):.1f}; n={victims})"
        steps = case.steps or "standard"
        row = f"| {name} | {steps} | {spread} | {statistics.median(seconds):.1f} | {case.authors} | {case.bar} |"
        rows.append(row)
        click.echo(row)
    machine = f"torch {torch.__version__}, {platform.machine()}, one thread, {time.strftime('%Y-%m-%d')}"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([*rows, "", machine]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
