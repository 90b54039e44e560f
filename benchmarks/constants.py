"""What other values of single constants give, on CIFAR-10 victims, batch size 1, labels given.

    python benchmarks/constants.py [--only STALL] [--victims 4] [--out FILE]

One constant is changed at a time, everything else stays as it is. Victims are the test images 0, 40, 80 and 120 of the
sample, the network is the LeNet of `networks.py` with the weights of seed 0. Rows named *undefended* run iDLG, preset
standard (L-BFGS on the squared distance, no prior); rows named *signs* run 600 steps of the authors' IG on an update
of which only signs are shared, with an attacker who knows. Needs the CIFAR-10 sample in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import importlib
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from networks import cifar, lenet, psnr, target, victim
from store import machine

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.idlg import IDLG
from leakaudit.attacks.ig import IG
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.base import adapted
from leakaudit.defences.quantisation import SignQuantisation
from leakaudit.protocols.fedsgd import FedSGD


@dataclass(frozen=True)
class Sweep:
    """A constant, the values that are tried, and on what: ``undefended`` or ``signs``."""

    module: str
    name: str
    values: tuple[float, ...]
    case: str
    preset: str


SWEEPS = (
    Sweep("leakaudit.matching.descent", "OBJECTIVE_SCALE", (1.0, 1e3, 1e6), "undefended", "standard"),
    Sweep("leakaudit.matching.descent", "STALL", (50, 150), "undefended", "standard"),
    Sweep("leakaudit.defences.quantisation", "MARGIN", (0.1, 0.25, 0.5, 1.0), "signs", "paper"),
    Sweep("leakaudit.matching.engine", "ONE_BIT_TV", (1e-4, 1e-2, 3e-2, 1e-1), "signs", "paper"),
)
SETTINGS = {"history": (10, 50)}
"""Settings of the engine, by their values; undefended."""


def attack(case: str, preset: str, number: int, changes: dict[str, float]) -> tuple[float, int]:
    """PSNR of one victim, and the evaluations that it took."""
    net = target(lenet)
    images, labels = (a[40 * number : 40 * number + 1] for a in cifar())
    observation = victim(net, images, labels, number)
    kind = IDLG
    if case == "signs":
        defences = (SignQuantisation(),)
        seen = observe(net, Batch(images, labels, (40 * number,)), FedSGD(1), observation.domain, number, defences)
        net, observation = adapted(net, replace(seen, labels=labels, label_source="given"), defences)
        kind, changes = IG, {"iterations": 600, **changes}
    settings = replace(kind.presets[preset], **changes)
    found = kind(settings)(net, observation, cpu_generator(number))
    return psnr(found.inputs, images), found.iterations


def row(name: str, value: float, case: str, preset: str, victims: int, changes: dict[str, float]) -> str:
    """A line of the table."""
    found = [attack(case, preset, number, changes) for number in range(victims)]
    quality, spent = [f[0] for f in found], [f[1] for f in found]
    middle, low, high = statistics.median(quality), min(quality), max(quality)
    cells = (f"{middle:.1f} ({low:.1f}–{high:.1f}; n={victims})", f"{statistics.median(spent):,.0f}")
    return f"| {name} | {value:g} | {case} | {' | '.join(cells)} |"


@click.command()
@click.option("--only", "names", multiple=True, help="Constants; default all.")
@click.option("--victims", default=4, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(names: tuple[str, ...], victims: int, out: Path | None) -> None:
    """Print a row for each value."""
    torch.set_num_threads(1)
    rows = ["| constant | value | case | median PSNR, dB (range) | median evaluations |", "|---|---|---|---|---|"]
    click.echo("\n".join(rows))
    for sweep in SWEEPS:
        module = importlib.import_module(sweep.module)
        usual = getattr(module, sweep.name)
        for value in sweep.values if not names or sweep.name in names else ():
            setattr(module, sweep.name, value)
            rows.append(row(sweep.name, value, sweep.case, sweep.preset, victims, {}))
            click.echo(rows[-1])
        setattr(module, sweep.name, usual)
    for name, values in SETTINGS.items():
        for value in values if not names or name in names else ():
            rows.append(row(name, value, "undefended", "standard", victims, {name: value}))
            click.echo(rows[-1])
    if out:
        out.write_text("\n".join([*rows, "", machine()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
