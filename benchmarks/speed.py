"""Seconds per step of the engine's three modes, for one restart and for several at once.

    python benchmarks/speed.py [--restarts 16] [--out benchmarks/results/speed.md]

One step is the objective of IG and its gradient with respect to the inputs, batch size 1, on one thread. Reported is
the fastest of several rounds, which a busy machine disturbs least; recording and compiling are timed apart.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from networks import ViT, cifar, lenet, lenet_zhu, mlp, target, victim
from torch import nn

from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.step import Mode, Step

NETWORKS: dict[str, Callable[[], nn.Module]] = {"LeNet": lenet, "LeNet-Zhu": lenet_zhu, "MLP": mlp, "ViT": ViT}
ROUNDS = 5


def milliseconds(step: Step, values: list[torch.Tensor], repeat: int) -> float:
    """Fastest round, per step."""
    step(values)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(repeat):
            step(values)
        best = min(best, (time.perf_counter() - started) / repeat)
    return 1000 * best


@click.command()
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="Default: all.")
@click.option("--restarts", default=16, show_default=True)
@click.option("--repeat", default=20, show_default=True, help="Steps per round.")
@click.option("--modes", default="eager,traced,compiled", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(names: tuple[str, ...], restarts: int, repeat: int, modes: str, out: Path | None) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    images, labels = cifar()
    rows = ["| network | restarts | mode | ms per step | ms per restart | recording, s |", "|---" * 6 + "|"]
    click.echo("\n".join(rows))
    for name in names or tuple(NETWORKS):
        net = target(NETWORKS[name])
        observation = victim(net, images[:1], labels[:1])
        problem = GradientMatching(net, observation, labels[:1], MatchSettings(tv_weight=1e-5))
        for count in (1, restarts):
            values = [torch.randn(count, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
            for mode in modes.split(","):
                wanted: Mode = mode  # type: ignore[assignment]
                started = time.perf_counter()
                step = Step(problem, ["inputs"], values, wanted)
                recording = time.perf_counter() - started
                found = milliseconds(step, values, max(1, repeat // count))
                rows.append(f"| {name} | {count} | {step.mode} | {found:.2f} | {found / count:.2f} | {recording:.1f} |")
                click.echo(rows[-1])
    machine = f"torch {torch.__version__}, {platform.machine()}, one thread, {time.strftime('%Y-%m-%d')}"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([*rows, "", machine]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
