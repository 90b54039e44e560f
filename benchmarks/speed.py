"""Time of one iteration, side by side: `breaching`, and the engine's three modes, for one restart and for several.

    python benchmarks/speed.py [LeNet/1/16/1 ...] [--out benchmarks/results/speed.md]

An iteration is all of it: objective, gradient, signed Adam, projection, record of the best. *eager* is the plain way,
autograd twice; `breaching` does its restarts in turn, so that its figure per restart is that of one. The contenders
take turns, a few iterations each, round after round; given are medians over the rounds, and ratios are medians of the
ratios within a round, which a busy machine disturbs least. With one thread the clock is the processor time of the
process, with several it is the wall. The engine uses as many of the threads as ``leakaudit scan`` would, one for small
networks; eager and `breaching` use all. Recording and compiling are timed apart.

Rows that ``--out`` has already stay, unless their cell is measured again, and so do the lines below; what lacks of the
whole grid is listed there.
"""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch

import torch
from contenders import Contender, breaching, clock_of, ours, take_turns, times_as_fast
from networks import ViT, cifar, convnet64, lenet, mlp, resnet18, target, victim
from peer import missing, name_and_version
from store import machine
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.matching.step import Mode

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "LeNet": lenet,
    "MLP": mlp,
    "ConvNet-64": convnet64,
    "ResNet-18": resnet18,
    "ViT-small": ViT,
}
MODES: tuple[Mode, ...] = ("eager", "traced", "compiled")
HEADER = (
    "| network | batch | restarts | threads | breaching | eager | traced | compiled | recording, s | compiling, s "
    "| faster than breaching | than eager |"
)


def measure(
    name: str, batch: int, restarts: int, threads: int, rounds: int, modes: Sequence[Mode]
) -> dict[str, Contender]:
    """All contenders in turns."""
    clock = clock_of(torch.device("cpu"), threads)
    images, labels = cifar()
    net = target(NETWORKS[name])
    observation = victim(net, images[:batch], labels[:batch])
    start = torch.randn(restarts, batch, 3, 32, 32, generator=cpu_generator(0))
    contenders: dict[str, Contender] = {}
    if not missing():
        contenders["breaching"] = breaching(net, observation, start, threads, clock)
    for mode in modes:
        contenders[mode] = ours(net, observation, start, mode, threads, clock)
    for contender in contenders.values():
        contender.warm_up()
    take_turns(contenders, rounds)
    return contenders


def row(name: str, batch: int, restarts: int, threads: int, contenders: dict[str, Contender]) -> str:
    """A line of the table."""

    def ms(key: str) -> str:
        found = contenders.get(key)
        if found is None:
            return "–"
        return f"{found.median:.3g}" + ("" if found.mode in ("", key) else f" ({found.mode})")

    def setup(key: str) -> str:
        return f"{contenders[key].setup:.1f}" if key in contenders else "–"

    best = min((m for m in MODES if m in contenders), key=lambda m: contenders[m].median)

    def ratio(key: str) -> str:
        if key not in contenders:
            return "–"
        return f"{times_as_fast(contenders[key], contenders[best]):.2f}×"

    cells = [name, batch, restarts, threads, ms("breaching"), *map(ms, MODES), setup("traced"), setup("compiled")]
    return "| " + " | ".join(map(str, [*cells, ratio("breaching"), ratio("eager")])) + " |"


def conditions(load: float) -> str:
    """What the figures depend on, and how to repeat them."""
    return (
        f"Milliseconds per iteration and restart. {name_and_version()}, {machine('threads as listed')}, "
        f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end. `python {shlex.join(sys.argv)}`"
    )


GRID = ["/".join(map(str, cell)) for cell in itertools.product(NETWORKS, (1, 8), (1, 16), (1, 2)) if cell[0] != "MLP"]
"""Cells that are measured by default: batch 1 and 8, 1 and 16 restarts, one thread and two."""
LACKING = "Not measured: "


@dataclass(eq=False)
class Table:
    """Rows by cell, and the paragraphs below them."""

    rows: dict[str, str] = field(default_factory=dict)
    below: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path | None) -> Table:
        """What was written before, if anything."""
        found = cls()
        for part in path.read_text(encoding="utf-8").strip().split("\n\n") if path and path.exists() else []:
            if not part.startswith("|"):
                found.below += [part] if not part.startswith(LACKING) else []
                continue
            for line in part.splitlines()[2:]:
                found.rows["/".join(cell.strip() for cell in line.split("|")[1:5])] = line
        return found

    def text(self, last: str = "") -> str:
        """Markdown, networks in their order, with what lacks and a last paragraph."""

        def order(cell: str) -> tuple[int, ...]:
            name, *numbers = cell.split("/")
            return list(NETWORKS).index(name), *map(int, numbers)

        rows = [self.rows[cell] for cell in sorted(self.rows, key=order)]
        lacking = [cell for cell in GRID if cell not in self.rows]
        parts = ["\n".join([HEADER, "|---" * 12 + "|", *rows])]
        if lacking:
            parts.append(f"{LACKING}{', '.join(lacking)} (network/batch/restarts/threads).")
        return "\n\n".join([*parts, *self.below, *([last] if last else [])]) + "\n"


@click.command()
@click.argument("cells", nargs=-1, metavar="[NETWORK/BATCH/RESTARTS/THREADS ...]")
@click.option("--rounds", default=9, show_default=True)
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), default=MODES, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Add the rows to the table there, one by one.")
@click.option("--table-only", is_flag=True, help="Measure nothing: say in the table of --out what it lacks.")
def main(cells: tuple[str, ...], rounds: int, modes: tuple[Mode, ...], out: Path | None, table_only: bool) -> None:
    """Measure the cells (all by default) and print the table."""
    table = Table.read(out)
    if table_only:
        write(table, out)
        return
    if missing():
        click.echo(f"{missing()}: its column stays empty", err=True)
    click.echo(HEADER + "\n" + "|---" * 12 + "|")
    load = os.getloadavg()[0]
    for cell in cells or GRID:
        name, batch, restarts, threads = cell.split("/")
        contenders = measure(name, int(batch), int(restarts), int(threads), rounds, modes)
        table.rows[cell] = row(name, int(batch), int(restarts), int(threads), contenders)
        click.echo(table.rows[cell])
        write(table, out, conditions(load))


def write(table: Table, out: Path | None, last: str = "") -> None:
    """Into a file, if one is wanted."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(table.text(last), encoding="utf-8")


if __name__ == "__main__":
    main()
