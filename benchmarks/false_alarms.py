"""How often a scan claims a leak that is none, and how often it misses one that is.

    python benchmarks/false_alarms.py [--scans 40] [--steps 600] [--out benchmarks/results/false_alarms.md]

*False alarms*: the update under attack comes from other samples than those that the reconstructions are scored
against, over four architectures. Whatever passes as a leak is a false alarm; none may. *Misses*: true updates of single
samples, through an MLP and a LeNet, which are known to leak. Every scan is the whole pipeline with its controls, one
victim, preset quick, all default attacks, and a batch file of 200 images of its own. Needs the
CIFAR-10 sample in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from networks import CIFAR, cifar, lenet
from torch import nn

import leakaudit
from leakaudit.audit import draw
from leakaudit.document.schema import Report
from leakaudit.protocols.base import Mode
from leakaudit.scoring.interval import leak_interval

FILE = 200
"""Images in the batch file of one scan."""


def mlp(p: float = 0.0) -> nn.Module:
    """One hidden layer of 128 GELU units, with dropout behind it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.GELU(), nn.Dropout(p), nn.Linear(128, 10))


def leaky_cnn() -> nn.Module:
    """Two invertible convolutions, for R-GAP."""
    first = [nn.Conv2d(3, 12, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(12, 24, 3, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(1536, 10))


@dataclass(frozen=True)
class Case:
    """An architecture and the mode of its client."""

    build: Callable[[], nn.Module]
    mode: Mode = "eval"


CASES = {
    "MLP": Case(mlp),
    "MLP, dropout .5": Case(lambda: mlp(0.5), "train"),
    "LeNet": Case(lenet),
    "leaky CNN": Case(leaky_cnn),
}


@contextmanager
def mismatched(images: torch.Tensor, labels: torch.Tensor) -> Iterator[None]:
    """The client computes its update from these samples, and the reconstructions are scored against the victim's."""
    honest = draw.observe_victim

    def other(target: Any, batch: Any, *rest: Any) -> Any:
        size = len(batch)
        source = replace(batch, images=images[:size], labels=labels[:size])
        return replace(honest(target, source, *rest), batch=batch)

    draw.observe_victim = other  # type: ignore[assignment]
    try:
        yield
    finally:
        draw.observe_victim = honest  # type: ignore[assignment]


def scan(case: Case, seed: int, wrong: bool, steps: int) -> Report:
    """One scan, of an untrained network with weights and samples by seed."""
    x, y = cifar()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    file, other = order[:FILE], order[FILE:]
    torch.manual_seed(seed)
    module = case.build()

    def run() -> Report:
        return leakaudit.scan(
            module, (x[file].numpy(), y[file].numpy()), victims=1, preset="quick", seed=seed, mode=case.mode,
            settings={name: {"iterations": str(steps)} for name in ("ig", "dia")},
            mean=CIFAR.mean, std=CIFAR.std, input_shape=CIFAR.shape, device="cpu",
        )  # fmt: skip

    if not wrong:
        return run()
    with mismatched(x[other], y[other]):
        return run()


def measure(names: list[str], scans: int, wrong: bool, steps: int) -> Iterator[tuple[str, list[Report], float]]:
    """Per architecture: the reports, and seconds per scan."""
    for name in names:
        started = time.monotonic()
        reports = []
        for seed in range(scans // len(names)):
            report = scan(CASES[name], 1000 * wrong + seed, wrong, steps)
            reports.append(report)
            click.echo(f"{'mismatched' if wrong else 'true'} {name} {seed}: {report.verdict.status}")
        yield name, reports, (time.monotonic() - started) / len(reports)


def table(rows: Iterator[tuple[str, list[Report], float]]) -> tuple[list[str], int, int]:
    """Lines of Markdown, and how many of how many scans say LEAKS."""
    lines = ["| architecture | scans | LEAKS | statuses | s per scan |", "|---|---|---|---|---|"]
    leaks = total = 0
    for name, reports, seconds in rows:
        statuses = Counter(report.verdict.status for report in reports)
        hit = sum(report.verdict.code.leaks for report in reports)
        leaks, total = leaks + hit, total + len(reports)
        said = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
        lines.append(f"| {name} | {len(reports)} | {hit} | {said} | {seconds:.1f} |")
    low, high = leak_interval(leaks, total) or (0.0, 1.0)
    lines.append(f"\n{leaks} of {total} scans say LEAKS: {leaks / total:.0%}, 95 % interval {low:.0%} to {high:.0%}.\n")
    return lines, leaks, total


@click.command()
@click.option("--scans", default=40, help="Of each kind.")
@click.option("--steps", default=600, help="Of the optimisation attacks; preset quick has 600.")
@click.option("--kind", type=click.Choice(("mismatched", "true")), help="Only one kind.")
@click.option("--architecture", multiple=True, type=click.Choice(tuple(CASES)), help="Only these; repeatable.")
@click.option("--out", type=click.Path(path_type=Path))
def main(scans: int, steps: int, kind: str | None, architecture: tuple[str, ...], out: Path | None) -> None:
    """Print the tables, and write them."""
    lines = [
        "# False alarms and misses",
        f"\n{time.strftime('%Y-%m-%d')}, leakaudit {leakaudit.__version__}, torch {torch.__version__}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s). CIFAR-10 test images, "
        f"untrained networks, batch size 1, preset quick with {steps} steps.",
    ]
    failed = False
    if kind != "true":
        rows, alarms, _ = table(measure(list(architecture or CASES), scans, True, steps))
        lines += ["\n## Mismatched updates: the bar is 0 LEAKS\n", *rows]
        failed |= alarms > 0
    if kind != "mismatched":
        rows, found, total = table(measure(list(architecture or ("MLP", "LeNet")), scans, False, steps))
        lines += ["\n## True updates: the bar is 95 % LEAKS\n", *rows]
        failed |= found < 0.95 * total
    text = "\n".join(lines)
    click.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
