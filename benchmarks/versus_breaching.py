"""IG against the ``invertinggradients`` attack of ``breaching``: same victims, update, labels and iterations.

    python benchmarks/versus_breaching.py [CASE[/ITERATIONS] ...] [--victims 3] [--starts 1]
        [--only time|standard] [--out FILE.md]

Three contenders on CIFAR-10 victims, batch size 1 unless said: `breaching` as shipped (total variation 0.1 in the units
here), and IG's presets standard, which is the default and counts its trials, and paper, as its authors run it, each
with as many iterations. PSNR in 0..1, with several starts the median over them. Then the time to breaching's PSNR: the
whole time of the shortest declared run of IG whose result is at least as good, without using what it reached on the
way. With ``--only time`` nothing else is measured, with ``--only standard`` neither that nor preset paper. Breaching's
own schedule has 24,000 iterations; a shorter one, for want of processor time, is the same schedule compressed, and the
column says its length. Times are processor seconds of one thread. Needs breaching (see benchmarks/peer.py) and the
CIFAR-10 sample in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from networks import CIFAR, ViT, cifar, convnet64, distinct, lenet, lenet_zhu, mlp, psnr, resnet18, target, victim
from peer import Peer, missing, name_and_version
from scipy.optimize import linear_sum_assignment
from store import machine
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.observation import Observation
from leakaudit.target.target import Target


@dataclass(frozen=True)
class Case:
    """A network, a batch size, the iterations of everyone's schedule, and the runs that may be the first as good."""

    build: Callable[[], nn.Module]
    batch: int
    iterations: int
    shorter: tuple[IGSettings, ...]


STANDARD = IG.presets["standard"]
PAPER = IG.presets["paper"]
SHORT = tuple(replace(PAPER, iterations=n) for n in (10, 20, 40, 80, 160))
CASES = {
    "LeNet": Case(lenet, 1, 24_000, (*SHORT, replace(STANDARD, iterations=1500))),
    "LeNet, batch 4": Case(lenet, 4, 2_000, (replace(STANDARD, iterations=1500),)),
    "LeNet-Zhu": Case(lenet_zhu, 1, 2_000, (replace(STANDARD, iterations=1500),)),
    "MLP": Case(mlp, 1, 1_000, (replace(STANDARD, iterations=500),)),
    "ConvNet-64": Case(convnet64, 1, 300, SHORT),
    "ViT-small": Case(ViT, 1, 1_000, (*SHORT, replace(STANDARD, iterations=500))),
    "ResNet-18": Case(resnet18, 1, 200, SHORT),
    "LeNet, batch 8": Case(
        lenet, 8, 1_000, (*SHORT, replace(PAPER, iterations=320), replace(STANDARD, iterations=750))
    ),
}


@dataclass(eq=False)
class Found:
    """PSNR and processor seconds of one run."""

    psnr: float
    seconds: float


def timed(run: Callable[[], Tensor], images: Tensor) -> Found:
    """Run and score, after matching the samples one to one."""
    started = time.process_time()
    inputs = run()
    seconds = time.process_time() - started
    return Found(psnr(inputs[matching(inputs, images)], images), seconds)


def matching(inputs: Tensor, images: Tensor) -> Tensor:
    """Order of the reconstructions that is closest to the truth."""
    pixels = CIFAR.decode(inputs).flatten(1)
    _, order = linear_sum_assignment(torch.cdist(images.flatten(1), pixels).square())
    return torch.from_numpy(order)


def attack(net: Target, observation: Observation, settings: IGSettings, seed: int) -> Tensor:
    """IG with these settings."""
    return IG(settings)(net, observation, cpu_generator(seed)).inputs


def contest(case: Case, number: int, seed: int, only: str | None) -> dict[str, Found]:
    """All contenders on one victim, from noise of one seed."""
    images, labels = cifar()
    chosen = distinct(labels, case.batch, number) if case.batch > 1 else torch.tensor([40 * number])
    truth = images[chosen]
    net = target(case.build)
    observation = victim(net, truth, labels[chosen], seed=number)
    start = torch.randn(case.batch, *CIFAR.shape, generator=cpu_generator(seed))
    peer = Peer(net, observation, case.iterations)
    found = {"peer": timed(lambda: peer.loop(start), truth)}
    for name, preset in (("standard", STANDARD), ("paper", PAPER)):
        if only in (None, name):
            settings = replace(preset, iterations=case.iterations)
            found[name] = timed(lambda s=settings: attack(net, observation, s, seed), truth)  # type: ignore[misc]
    for settings in case.shorter if only != "standard" else ():
        found["first"] = timed(lambda s=settings: attack(net, observation, s, seed), truth)  # type: ignore[misc]
        if found["first"].psnr >= found["peer"].psnr:
            break
    click.echo(", ".join(f"{key} {value.psnr:.1f} dB" for key, value in found.items()), err=True)
    return found


def row(name: str, case: Case, victims: list[list[dict[str, Found]]]) -> str:
    """A line of the table, from every start of every victim: PSNR by victim, seconds and their ratio over all."""
    runs = [run for starts in victims for run in starts]

    def quality(key: str) -> str:
        found = ([run[key].psnr for run in starts if key in run] for starts in victims)
        return ", ".join(f"{statistics.median(values):.1f}" for values in found if values)

    def seconds(key: str) -> str:
        found = [run[key].seconds for run in runs if key in run]
        return f"{statistics.median(found):.0f}" if found else ""

    timed_runs = [run for run in runs if "first" in run]
    reached = all(run["first"].psnr >= run["peer"].psnr for run in timed_runs)
    gains = [run["peer"].seconds / run["first"].seconds for run in timed_runs]
    gain = (f"{statistics.median(gains):.1f}×" if reached else "not reached") if gains else ""
    cells = [name, case.iterations, *map(quality, ("peer", "standard", "paper", "first"))]
    cells += [*map(seconds, ("peer", "standard", "first")), gain]
    return "| " + " | ".join(map(str, cells)) + " |"


@click.command()
@click.argument("names", nargs=-1, metavar="[CASE[/ITERATIONS] ...]")
@click.option("--victims", default=3, show_default=True, help="Victims per case.")
@click.option("--starts", type=click.IntRange(1), default=1, show_default=True, help="Starts per victim.")
@click.option("--only", type=click.Choice(["time", "standard"]), help="Only the time to breaching's PSNR, or standard.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too, after every row.")
def main(names: tuple[str, ...], victims: int, starts: int, only: str | None, out: Path | None) -> None:
    """Measure the cases (all by default) and print a row for each."""
    if missing():
        click.echo(f"Skipped: {missing()}")
        return
    torch.set_num_threads(1)
    rows = [
        "| case | iterations | breaching, dB | IG standard, dB | paper, dB | short IG, dB | breaching, s | standard, s "
        "| short IG, s | faster to breaching's PSNR |",
        "|---" * 10 + "|",
    ]
    click.echo("\n".join(rows))
    for wanted in names or tuple(CASES):
        name, _, iterations = wanted.partition("/")
        case = replace(CASES[name], iterations=int(iterations or CASES[name].iterations))
        results = [
            [contest(case, number, number + 1000 * start, only) for start in range(starts)] for number in range(victims)
        ]
        rows.append(row(name, case, results))
        click.echo(rows[-1])
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("\n".join([*rows, "", conditions(victims, starts)]) + "\n", encoding="utf-8")


def conditions(victims: int, starts: int) -> str:
    """What the figures depend on, and how to repeat them."""
    return (
        f"{victims} victim(s), from v = 0: victim v is the CIFAR-10 test image 40 v of the sample, or a batch of "
        f"distinct classes drawn by seed v; {starts} start(s) each, from noise of seed v + 1000 s, the PSNR is the "
        f"median over them; the weights are of seed 0. "
        f"{name_and_version()}, {machine()}, load {os.getloadavg()[0]:.1f}. `python {shlex.join(sys.argv)}`"
    )


if __name__ == "__main__":
    main()
