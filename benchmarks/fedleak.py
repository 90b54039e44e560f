"""Whether partial matching and gradient regularisation (FedLeak) win anywhere against plain gradient matching.

    python benchmarks/fedleak.py [--victims 4] [--evaluations 300] [--out benchmarks/results/fedleak.md]

Signed Adam on the cosine, TV 1e-4, the same number of gradient evaluations for all (a regularised step costs two). The
*rank* is the one by which the preset standard chooses (`leakaudit.matching.search`): the lower, the better, on the
whole update whatever part was matched. PSNR in 0..1, only for the reader: no choice is made by it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from networks import cifar, distinct, lenet, psnr, target, toy_batchnorm, victim
from store import machine
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.domains.images import total_variation
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import GradientMatching, MatchSettings, solve
from leakaudit.matching.search import rank
from leakaudit.reconstruction import SilentMonitor

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LeNet, GELU, batch 1": (lenet, 1),
    "LeNet, ReLU, batch 1": (lambda: lenet(activation=nn.ReLU), 1),
    "LeNet, ReLU, batch 4": (lambda: lenet(activation=nn.ReLU), 4),
    "ConvNet (BatchNorm), batch 1": (toy_batchnorm, 1),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "share 0.5": {"matched_share": 0.5},
    "share 0.1": {"matched_share": 0.1},
    "flatness 0.5": {"flatness": 0.5},
    "share 0.5, flatness 0.5": {"matched_share": 0.5, "flatness": 0.5},
}


def run(build: Callable[[], nn.Module], size: int, number: int, settings: MatchSettings) -> tuple[float, float]:
    """Rank and PSNR on one victim."""
    images, labels = cifar()
    chosen = distinct(labels, size, number)
    net = target(build)
    observation = victim(net, images[chosen], labels[chosen])
    problem = GradientMatching(net, observation, labels[chosen], settings)
    guess = {"inputs": observation.domain.start("normal", size, cpu_generator(number))}
    (solution,), _ = solve(problem, [guess], cpu_generator(number), Progress(SilentMonitor()))
    found = solution.values["inputs"]
    return rank(problem.cosine(solution.values), float(total_variation(found))), psnr(found, images[chosen])


@click.command()
@click.option("--victims", default=4, show_default=True, help="Victims per cell.")
@click.option("--evaluations", default=300, show_default=True, help="Of the gradient.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(victims: int, evaluations: int, out: Path | None) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    rows = [
        "| network | option | rank per victim | PSNR per victim, dB (median) | victims won by rank |",
        "|---" * 5 + "|",
    ]
    click.echo("\n".join(rows))
    base = MatchSettings(iterations=evaluations, tv_weight=1e-4, execution="eager")
    for network, (build, size) in NETWORKS.items():
        results = {}
        for option, changes in OPTIONS.items():
            steps = evaluations // (2 if changes.get("flatness") else 1)
            settings = replace(base, iterations=steps, **changes)
            results[option] = [run(build, size, number, settings) for number in range(victims)]
        for option, found in results.items():
            ranks, quality = zip(*found, strict=True)
            won = sum(r == min(other[v][0] for other in results.values()) for v, r in enumerate(ranks))
            shown = ", ".join(f"{q:.1f}" for q in quality)
            rows.append(
                f"| {network} | {option} | {', '.join(f'{r:.2f}' for r in ranks)} | {shown} "
                f"({statistics.median(quality):.1f}) | {won} of {victims} |"
            )
            click.echo(rows[-1])
    about = f"{evaluations} evaluations, {machine()}"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([*rows, "", about]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
