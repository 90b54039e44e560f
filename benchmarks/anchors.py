"""IG, WIA and DIA against the figures of the dropout-inversion authors' code, on CIFAR-10 victims.

    python benchmarks/anchors.py [CASE ...] [--victims 4] [--out benchmarks/results/attack_quality.md]

Rows with a number of steps run the preset quick without its search for that many, with a total variation of 1e-5, as
the authors' code did; rows named *standard* run that preset, and rows named *scan* go through an ONNX file and the
command line. PSNR in 0..1, median and range over the victims: test image 40 v, or a batch of distinct classes drawn by
v, is victim v, whose number also seeds its masks and start; the weights are of seed 0. Measured victims are kept in
``--store`` and not measured again. Needs the CIFAR-10 and MNIST samples in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import gi_pip
import torch
from networks import CIFAR, MNIST, ViT, distinct, lenet, lenet_zhu, mlp, psnr, samples, target, victim
from scanned import scan
from store import RESULTS, STORE, Measurement, Store, machine, versions
from torch import Tensor, nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.dia import DIA
from leakaudit.attacks.dlg import DLG
from leakaudit.attacks.idlg import IDLG
from leakaudit.attacks.ig import IG
from leakaudit.attacks.wia import WIA
from leakaudit.domains.images import Images


@dataclass(frozen=True)
class Case:
    """One row: a network, an attack, the steps (0: preset standard), the authors' figure and the bar, in dB.

    A batch of several is of pairwise distinct classes, so that each reconstruction is compared with its own sample.
    """

    build: Callable[[], nn.Module]
    attack: type[Attack]
    steps: int
    authors: str
    bar: str
    changes: tuple[tuple[str, object], ...] = ()
    batch: int = 1
    space: Images = CIFAR
    scan: bool = False


ENOUGH = 4
UNREAD = (("read", False),)
PLAIN = (*UNREAD, ("polish", False))
UNTIL_SMALL = (("schedule", "plateau"), ("tolerance", 1e-5), ("execution", "eager"))
CASES = {
    "mlp ig": Case(mlp, IG, 600, "40.3", "≥ 40"),
    "mlp .5 ig": Case(lambda: mlp(0.5), IG, 600, "14.6", "≤ 18"),
    "mlp .5 wia": Case(lambda: mlp(0.5), WIA, 600, "36.7", "≥ 36"),
    "mlp .5 dia": Case(lambda: mlp(0.5), DIA, 600, "27.5", "≥ 30"),
    "mlp .5 dia plain": Case(lambda: mlp(0.5), DIA, 600, "27.5", "", PLAIN),
    "mlp .5 dia 120 steps": Case(lambda: mlp(0.5), DIA, 120, "", ""),
    "mlp .5 dia batch 4": Case(lambda: mlp(0.5), DIA, 600, "", "", batch=4),
    "mlp .5 dia batch 4 unread": Case(lambda: mlp(0.5), DIA, 600, "", "", UNREAD, 4),
    "mlp .5 dia batch 4 plain": Case(lambda: mlp(0.5), DIA, 600, "", "", PLAIN, 4),
    "lenet ig": Case(lenet, IG, 1500, "19.9", "≥ 20"),
    "lenet .5 ig": Case(lambda: lenet(0.5), IG, 1500, "8.6", "≤ 11"),
    "lenet .5 wia": Case(lambda: lenet(0.5), WIA, 1500, "19.1", "≥ 20"),
    "lenet .5 dia": Case(lambda: lenet(0.5), DIA, 1500, "19.8", "≥ 20"),
    "lenet .5 dia plain": Case(lambda: lenet(0.5), DIA, 1500, "19.8", "", PLAIN),
    "lenet .5 dia unread": Case(lambda: lenet(0.5), DIA, 1500, "19.8", "", UNREAD),
    "lenet .5 dia 900 steps": Case(lambda: lenet(0.5), DIA, 900, "", ""),
    "lenet .5 dia standard": Case(lambda: lenet(0.5), DIA, 0, "19.8", "≥ 33 in 10 s"),
    "lenet .5 dia standard unread": Case(lambda: lenet(0.5), DIA, 0, "", "", UNREAD),
    "lenet .5 dia batch 2": Case(lambda: lenet(0.5), DIA, 1500, "", "", batch=2),
    "lenet .5 dia batch 2 unread": Case(lambda: lenet(0.5), DIA, 1500, "", "", UNREAD, 2),
    "lenet .5 dia batch 2 plain": Case(lambda: lenet(0.5), DIA, 1500, "", "", PLAIN, 2),
    "lenet .5 dia batch 4": Case(lambda: lenet(0.5), DIA, 1500, "", "", batch=4),
    "lenet .5 dia batch 4 unread": Case(lambda: lenet(0.5), DIA, 1500, "", "", UNREAD, 4),
    "lenet .5 dia batch 4 plain": Case(lambda: lenet(0.5), DIA, 1500, "", "", PLAIN, 4),
    "lenet conv .25 dia": Case(lambda: lenet(0.25, 0.25), DIA, 1500, "11.6", "≥ 14"),
    "lenet ig standard": Case(lenet, IG, 0, "", "≥ 40 in 10 s"),
    "lenet-zhu ig standard": Case(lenet_zhu, IG, 0, "~46", "≥ 40 in 60 s"),
    "lenet-zhu idlg standard": Case(lenet_zhu, IDLG, 0, "~46", ""),
    "lenet-zhu dlg standard": Case(lenet_zhu, DLG, 0, "", ""),
    "lenet relu ig standard": Case(lambda: lenet(activation=nn.ReLU), IG, 0, "", ""),
    "lenet conv .25 wia": Case(lambda: lenet(0.25, 0.25), WIA, 1500, "14.4", ""),
    "lenet conv .25 dia plain": Case(lambda: lenet(0.25, 0.25), DIA, 1500, "11.6", "", PLAIN),
    "lenet conv .25 dia standard": Case(lambda: lenet(0.25, 0.25), DIA, 0, "11.6", ""),
    "vit .1 wia": Case(lambda: ViT(0.1), WIA, 2600, "27.9", "≥ 28"),
    "vit .1 dia": Case(lambda: ViT(0.1), DIA, 2600, "21.5", "≥ 22"),
}
NO_MASK_WEIGHT = (*PLAIN, ("mask_weight", 0.0))
CASES |= {
    "mlp ig scan": Case(mlp, IG, 600, "40.3", "≥ 40", scan=True),
    "lenet ig scan": Case(lenet, IG, 1500, "19.9", "≥ 20", scan=True),
    "mlp .25 ig": Case(lambda: mlp(0.25), IG, 600, "17.5", ""),
    "mlp .25 wia": Case(lambda: mlp(0.25), WIA, 600, "38.5", ""),
    "mlp .25 dia": Case(lambda: mlp(0.25), DIA, 600, "31.8", ""),
    "mlp .75 ig": Case(lambda: mlp(0.75), IG, 600, "12.3", ""),
    "mlp .75 wia": Case(lambda: mlp(0.75), WIA, 600, "25.0", ""),
    "mlp .75 dia": Case(lambda: mlp(0.75), DIA, 600, "26.6", ""),
    "mlp .25 ig batch 4": Case(lambda: mlp(0.25), IG, 600, "17.7", "", batch=4),
    "mlp .25 wia batch 4": Case(lambda: mlp(0.25), WIA, 1000, "38.2", "", batch=4),
    "mlp .25 dia batch 4": Case(lambda: mlp(0.25), DIA, 1000, "34.9", "", batch=4),
    "mlp .25 dia batch 4 plain": Case(lambda: mlp(0.25), DIA, 1000, "34.9", "", PLAIN, 4),
    "mlp .25 dia batch 4 plain, λ_m 0": Case(lambda: mlp(0.25), DIA, 1000, "33.5", "", NO_MASK_WEIGHT, 4),
    "mlp .5 dia plain, λ_m 0": Case(lambda: mlp(0.5), DIA, 600, "28.9", "", NO_MASK_WEIGHT),
    "lenet conv .25 ig": Case(lambda: lenet(0.25, 0.25), IG, 1500, "9.0", ""),
    "vit ig": Case(ViT, IG, 300, "23.5", ""),
    "vit .1 ig": Case(lambda: ViT(0.1), IG, 400, "7.3", ""),
    "vit mnist ig": Case(lambda: ViT(space=MNIST), IG, 9_000, "24.2", "", UNTIL_SMALL, space=MNIST),
    "vit mnist .1 ig": Case(lambda: ViT(0.1, space=MNIST), IG, 300, "7.7", "", space=MNIST),
    "vit mnist .1 dia": Case(lambda: ViT(0.1, space=MNIST), DIA, 1600, "19.8", "", space=MNIST),
}
"""The rest of the authors' table: other rates, a batch of four, the weight of the masks' prior, MNIST."""


WITHOUT_SEARCH: dict[str, Any] = {"search": False, "tolerance": 0.0, "tv_weight": 1e-5}
"""The preset quick as the authors' code is."""


def attack_of(case: Case) -> Attack:
    """The attack with the settings of its row."""
    settings = case.attack.presets["standard"]
    if case.steps:
        settings = replace(case.attack.presets["quick"], iterations=case.steps, **WITHOUT_SEARCH)
    return case.attack(replace(settings, **dict(case.changes)))


def measure(store: Store, name: str, number: int) -> None:
    """Attack one victim, unless that was done before."""
    if store.get(name, number) is not None:
        return
    case = CASES[name]
    images, labels = samples(case.space)
    chosen = distinct(labels, case.batch, number) if case.batch > 1 else slice(40 * number, 40 * number + 1)
    x, y = images[chosen], labels[chosen]
    row = store.add(Measurement(name, number, *(scanned if case.scan else attacked)(case, x, y, number)))
    click.echo(f"{name}, victim {number}: {row.psnr:.1f} dB, {row.seconds:.0f} s", err=True)


def attacked(case: Case, x: Tensor, y: Tensor, seed: int) -> tuple[float, float, float, tuple[str, ...]]:
    """PSNR, seconds, match and notes of the attack on one victim, whose labels it is given."""
    net = target(case.build, space=case.space)
    observation = victim(net, x, y, seed, case.space)
    if case.attack is not WIA:
        observation = replace(observation, masks=None)
    result = attack_of(case)(net, observation, cpu_generator(seed))
    return psnr(result.inputs, x, case.space), result.seconds, result.match, result.notes


def scanned(case: Case, x: Tensor, y: Tensor, seed: int) -> tuple[float, float, float, tuple[str, ...]]:
    """The same as `leakaudit scan` finds it, which infers the label."""
    changes = {"iterations": case.steps, **WITHOUT_SEARCH, **dict(case.changes)}
    found = scan(target(case.build, space=case.space).module, x, y, case.space, case.attack.name, changes, seed)
    return found.psnr, found.seconds, found.match, found.notes


def table(store: Store) -> list[str]:
    """The measurements in Markdown."""
    rows = [
        "| case | steps | median PSNR, dB (range) | median seconds | authors' code | bar | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        found = store.of(name)
        if not found:
            rows.append(f"| {name} | {case.steps or 'standard'} | not measured | | {case.authors} | {case.bar} | |")
            continue
        quality = [row.psnr for row in found]
        median, seconds = statistics.median(quality), statistics.median(row.seconds for row in found)
        spread = f"{median:.1f} ({min(quality):.1f}–{max(quality):.1f}; n={len(found)})"
        words = (spread, f"{seconds:.1f}", case.authors, case.bar, met(case.bar, median, len(found)))
        rows.append(f"| {name} | {case.steps or 'standard'} | " + " | ".join(words) + " |")
    return rows


def met(bar: str, median: float, victims: int) -> str:
    """Whether the median is on the right side of the bar in dB; the bar's seconds are for a quiet machine."""
    if not bar:
        return ""
    sign, number = bar.split()[:2]
    inside = median >= float(number) if sign == "≥" else median <= float(number)
    return ("yes" if inside else "no") + ("" if victims >= ENOUGH else f", but only {victims} of {ENOUGH} victims")


NOTE = """Median and range of the PSNR in 0..1 over n victims: CIFAR-10 (or MNIST) test images 0, 40, 80 and 120 of the
sample, batch size 1 unless said, labels given, weights of seed 0, masks and start of the victim's number. Rows with a
number of steps run the attack's preset quick without its search for that many, with a total variation of 1e-5 as the
authors' code (IG's own is 1e-4); *standard* rows run that preset; *scan* rows go through an ONNX file and `leakaudit
scan`, which infers the label. *plain* is the authors' DIA in our engine: no mask read off the update, no refinement,
*λ_m 0* also without its prior on the masks' means; *unread* reads none but refines. *vit mnist ig* ends below an
objective of 1e-5, as the authors' run did after 116 steps, here after 68 to 100; a schedule of 116 steps in all gives
15.2 dB. Seconds are of whatever load the machine was under."""


@click.command()
@click.argument("names", nargs=-1)
@click.option("--victims", default=4, show_default=True, help="Victims per case.")
@click.option("--store", "path", type=click.Path(path_type=Path), default=STORE, help="Measurements kept.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "attack_quality.md")
def main(names: tuple[str, ...], victims: int, path: Path, out: Path) -> None:
    """Measure the cases NAMES (all by default), victim by victim, and write the table."""
    torch.set_num_threads(1)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(CASES)}")
    store = Store(path)
    for name in names or tuple(CASES):
        for number in range(victims):
            measure(store, name, number)
    parts = (
        ["# Quality of the optimisation attacks", "", NOTE, "", *table(store), ""],
        [versions(store, {name: name for name in CASES}), ""],
        [
            "GI-PIP on the network of `benchmarks/gi_pip.py`, batches of four:",
            "",
            *gi_pip.table(store),
            "",
            gi_pip.code(store),
            "",
        ],
        [f"{machine()}. `python benchmarks/anchors.py` and `python benchmarks/gi_pip.py`, which go on where"],
        ["they were interrupted; to measure a case anew, delete its lines in `attack_quality.jsonl`."],
    )
    text = "\n".join(line for part in parts for line in part)
    click.echo(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
