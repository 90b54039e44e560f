"""What an autoencoder's anomaly score adds to total variation: GI-PIP against IG at several weights.

    python benchmarks/gi_pip.py [ONLY ...] [--batches 4] [--out benchmarks/results/gi_pip.md]

A small convolutional network with BatchNorm (eval mode, untrained, 66,730 parameters), batches of four CIFAR-10 images
of distinct classes, each with weights of its own, 600 steps of unsigned Adam. The autoencoder is trained on 128 other
CIFAR-10 images. Mean PSNR in 0..1 over the batches; the gain over IG of the same total variation is taken batch by
batch, from the same start. The last rows are the presets standard, which choose their own weight. Measured batches are
kept in ``--store`` and not measured again.

Twice: with a network that takes normalised images, as trained ones do, and with one that takes pixels in 0..1, where
the same weight of the total variation weighs a quarter (a difference of pixels is 0.25 of one of normalised values).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from networks import CIFAR, cifar, distinct, psnr, target, toy_batchnorm, victim
from store import RESULTS, STORE, Measurement, Store, machine, versions
from torch import Tensor

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.gi_pip import GIPIP, GIPIPSettings
from leakaudit.attacks.ig import IG
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.target.target import Target

PIXELS = Images(CIFAR.shape, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GROUPS = {
    "gi-pip, normalised": (CIFAR, (1e-3, 1e-2, 3e-2)),
    "gi-pip, pixels": (PIXELS, (1e-3, 1e-2, 3e-2)),
}
"""What the network takes, and weights of the total variation."""
TITLES = {
    "gi-pip, normalised": "normalised images, mean PSNR, dB (gain over IG of the same TV: mean; range)",
    "gi-pip, pixels": "pixels in 0..1",
}
BASE = GIPIPSettings(iterations=600, signed=False)
BASELINE = "IG"
PRESETS = "gi-pip, normalised: "
ROWS: dict[str, Mapping[str, Any]] = {
    BASELINE: {"anomaly_weight": 0.0},
    "GI-PIP, two-sided, β = 0.3": {"anomaly_weight": 0.3},
    "GI-PIP, one-sided, β = 0.3": {"anomaly_weight": 0.3, "one_sided": True},
}
CASES: dict[str, Attack] = {
    **{
        f"{group}: {row}, TV {weight:g}": GIPIP(replace(BASE, tv_weight=weight, **changes))
        for group, (_, weights) in GROUPS.items()
        for weight in weights
        for row, changes in ROWS.items()
    },
    f"{PRESETS}IG standard": IG(IG.presets["standard"]),
    f"{PRESETS}GI-PIP standard": GIPIP(GIPIP.presets["standard"]),
}


def batch(seed: int, space: Images = CIFAR) -> tuple[Target, Tensor, Observation]:
    """A network, images in the order of their labels, and the observation with public images."""
    images, labels = cifar()
    chosen = distinct(labels, 4, seed)
    chosen = chosen[labels[chosen].argsort()]
    public, _ = cifar("cifar10_train.npz")
    net = target(toy_batchnorm, seed)
    observation = victim(net, images[chosen], labels[chosen], space=space)
    return net, images[chosen], replace(observation, auxiliary=public[:128])


def measure(store: Store, case: str, seed: int) -> None:
    """Attack one batch, unless that was done before."""
    if store.get(case, seed) is not None:
        return
    space, _ = GROUPS[case.partition(": ")[0]]
    net, images, observation = batch(seed, space)
    result = CASES[case](net, observation, cpu_generator(seed))
    quality = psnr(result.inputs, images, space)
    store.add(Measurement(case, seed, quality, result.seconds, result.match, result.notes))
    click.echo(f"{case}, batch {seed}: {quality:.2f} dB, {result.seconds:.0f} s", err=True)


def cell(store: Store, case: str, baseline: str) -> str:
    """Mean, and mean and range of the gain over the baseline on the batches that both have."""
    values = {row.victim: row.psnr for row in store.of(case)}
    if not values:
        return "not measured"
    mean = f"{sum(values.values()) / len(values):.2f}"
    base = {row.victim: row.psnr for row in store.of(baseline)}
    gains = [values[v] - base[v] for v in values if v in base]
    if case == baseline or not gains:
        return f"{mean} (n={len(values)})"
    return f"{mean} ({sum(gains) / len(gains):+.2f}; {min(gains):+.1f} … {max(gains):+.1f}; n={len(gains)})"


def table(store: Store) -> list[str]:
    """The measurements in Markdown: a table for each group, and the presets."""
    rows: list[str] = []
    for group, (_, weights) in GROUPS.items():
        rows += [f"| {TITLES[group]} | " + " | ".join(f"TV {w:g}" for w in weights) + " |"]
        rows += ["|---" * (1 + len(weights)) + "|"]
        for name in ROWS:
            cells = [cell(store, f"{group}: {name}, TV {w:g}", f"{group}: {BASELINE}, TV {w:g}") for w in weights]
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
        rows.append("")
    rows += ["| preset, normalised images | mean PSNR, dB |", "|---|---|"]
    for name in ("IG standard", "GI-PIP standard"):
        rows.append(f"| {name} | {cell(store, f'{PRESETS}{name}', f'{PRESETS}IG standard')} |")
    return rows


def code(store: Store) -> str:
    """Which code measured which cells."""
    return versions(store, {case.removeprefix("gi-pip, "): case for case in CASES})


@click.command()
@click.argument("only", nargs=-1)
@click.option("--batches", default=4, show_default=True)
@click.option("--store", "path", type=click.Path(path_type=Path), default=STORE, help="Measurements kept.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "gi_pip.md")
def main(only: tuple[str, ...], batches: int, path: Path, out: Path) -> None:
    """Measure the cells whose name has any of the words ONLY in it (all by default), and write the table."""
    torch.set_num_threads(1)
    store = Store(path)
    for case in CASES:
        if not only or any(word in case for word in only):
            for seed in range(batches):
                measure(store, case, seed)
    text = "\n".join([*table(store), "", code(store), "", f"{machine()}. `python benchmarks/gi_pip.py`"])
    click.echo(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
