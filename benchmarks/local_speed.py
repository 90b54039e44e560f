"""Time of an iteration on an update of several local steps: IG on one gradient, SME, IG and DLFA through all steps.

    python benchmarks/local_speed.py [--rounds 9] [--mode eager]

All take turns, a few iterations each, round after round, on one thread and by the processor time of the process; given
are medians over the rounds, and the median of the ratios to IG on one gradient of all samples within a round. A step of
SME is one gradient, of its bent path two, of its coarse steps five, of DLFA as many as the client takes steps, each of
a part of the samples.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch

import click
import torch
from contenders import SETTINGS, Contender, take_turns
from local_steps import FASHION, cnn, gelu
from store import machine
from torch import Tensor

from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.matching.descent import Progress, adam
from leakaudit.matching.problem import CLIENT, GradientMatching
from leakaudit.matching.step import Mode, Step
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.coarse import CoarseSteps, begun
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.protocols.surrogates import ALPHA, BENT, Between, PerEpoch
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

COARSE = 5
"""Coarse steps of SME, its default."""
CELLS = {
    "LeNet N4 B2 E5": (gelu, FedAvg(4, "eval", "none", 5, 2, 0.1)),
    "CNN N8 B4 E2": (cnn, FedAvg(8, "eval", "none", 2, 4, 0.1)),
}


Unknowns = Mapping[str, float | list[float]]


def contender(net: Target, seen: object, protocol: Protocol, unknowns: Unknowns, mode: Mode) -> Contender:
    """One way to read the update, a restart of signed Adam."""
    epochs = protocol.local_epochs if isinstance(protocol, PerEpoch) else 1
    labels = torch.arange(protocol.batch_size // epochs).repeat(epochs)
    problem = GradientMatching(net, replace(seen, protocol=protocol), labels, SETTINGS)
    values = {"inputs": torch.randn(protocol.batch_size, *FASHION.shape, generator=cpu_generator(0))}
    values |= {CLIENT + name: torch.tensor(value).reshape(-1) for name, value in unknowns.items()}
    start: list[Tensor] = [value[None] for value in values.values()]
    step = Step(problem, tuple(values), start, mode)
    if step.note:
        click.echo(step.note, err=True)

    def run(iterations: int) -> object:
        settings = replace(SETTINGS, iterations=iterations)
        return adam(step, start, settings, cpu_generator(0), Progress(SilentMonitor()))

    return Contender(run, 1, time.process_time, 1, mode=step.mode)


def measure(name: str, rounds: int, mode: Mode) -> dict[str, Contender]:
    """All contenders in turns."""
    build, client = CELLS[name]
    torch.manual_seed(0)
    net = Target(build().eval(), name, "module", FASHION.shape, "NCHW", FASHION, SingleLabel(10))
    size = client.batch_size
    batch = Batch(torch.rand(size, *FASHION.shape, generator=cpu_generator(1)), torch.arange(size), tuple(range(size)))
    seen = observe(net, batch, client, FASHION)
    between = Between(size, way=client.moved(seen.update, net.parameters))
    coarse = CoarseSteps(size, way=between.way)
    few = {name: value.tolist() for name, value in begun(COARSE, torch.zeros(())).items()}
    ways: dict[str, tuple[Protocol, Unknowns]] = {
        "IG, one gradient": (FedSGD(size), {}),
        "SME": (between, {ALPHA: 0.0}),
        "SME, bent": (between, {ALPHA: 0.0, **BENT}),
        f"SME, {COARSE} coarse steps": (coarse, few),
        f"IG, {client.steps} steps": (client, {}),
        f"DLFA, {client.steps} steps": (PerEpoch.of(client), {}),
    }
    found = {title: contender(net, seen, *way, mode) for title, way in ways.items()}
    for each in found.values():
        each.warm_up()
    take_turns(found, rounds)
    return found


@click.command()
@click.option("--rounds", default=9, show_default=True)
@click.option("--mode", default="eager", show_default=True, type=click.Choice(("eager", "traced", "compiled")))
def main(rounds: int, mode: Mode) -> None:
    """Measure and print the table."""
    click.echo(f"{machine('1 thread')}, load {os.getloadavg()[0]:.1f}\n")
    click.echo("| client | way | ms an iteration | × IG, one gradient | mode |\n|---|---|---|---|---|")
    for name in CELLS:
        found = measure(name, rounds, mode)
        base = next(iter(found.values())).turns
        for title, each in found.items():
            ratio = statistics.median(a / b for a, b in zip(each.turns, base, strict=True))
            click.echo(f"| {name} | {title} | {statistics.median(each.turns):.3g} | {ratio:.2f} | {each.mode} |")


if __name__ == "__main__":
    main()
