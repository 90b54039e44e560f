"""What the exact readers read from the weights that clients exchange after local steps.

    python benchmarks/local_readers.py               # the whole table: about an hour on one core
    python benchmarks/local_readers.py 16 24         # some numbers of records only

An MLP 3072-512-10 (ReLU, biases, untrained) on test images of CIFAR-10; float32 weights are exchanged. A record
counts as exact from 90 dB on; a reading is false where the attack claims it and it is not in the client's data.
Drift is ‖ΔW₁‖ / ‖W₁‖. Every cell is measured with two seeds: 0 was used while the tolerances were chosen, 100 was not.

Needs cifar10_test.npz (arrays x, uint8, NCHW, and y) in the folder LEAKAUDIT_DATA.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import nn

from benchmarks.networks import CIFAR, cifar
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

SEEDS = (0, 100)
EXACT = 90.0
DRIFT = 0.10
LAYER = "1.weight"


@dataclass(frozen=True)
class Cell:
    """One client, attacked: what was read of it."""

    samples: int
    protocol: FedAvg
    seed: int
    drift: float
    rank: int | None
    exact: int
    false: int
    worst: float
    seconds: float
    note: str


def network(seed: int) -> Target:
    """The MLP with seeded weights."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    return Target(module, "mlp", "module", CIFAR.shape, "NCHW", CIFAR, SingleLabel(10))


def client(samples: int, seed: int) -> Batch:
    """Test images, drawn without replacement."""
    images, labels = cifar()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:samples]
    return Batch(images[chosen], labels[chosen], tuple(chosen.tolist()))


def measure(samples: int, seed: int, attack: Attack | None = None, told: FedAvg | None = None, **local: Any) -> Cell:
    """One client under these settings; the attacker may be told others."""
    from leakaudit.attacks.reading.records import distinct_records

    target, batch = network(seed), client(samples, seed)
    protocol = FedAvg(samples, **local)
    seen = observe(target, batch, protocol, CIFAR, seed)
    drift = drift_of(target, seen)
    if told is not None:
        after = {
            n: p.detach() + protocol.moved(seen.update, target.parameters)[n] for n, p in target.parameters.items()
        }
        update = told.from_shared(after, target.parameters)
        seen = replace(seen, update=update, protocol=told, exchange=told.rounding(update, target.parameters))
    attack = attack or (LinearReader(LinearSettings()) if samples == 1 else Spear(SpearSettings()))
    count = distinct_records(target, seen)
    started = time.perf_counter()
    refused = attack.refusal(target, seen)
    if refused is not None:
        return Cell(samples, protocol, seed, drift, count and count.rank, 0, 0, float("nan"), 0.0, refused.reason)
    seen = replace(seen, labels=infer_labels(target, seen, cpu_generator(0)).labels, label_source="inferred")
    result = attack(target, seen, cpu_generator(seed))
    seconds = time.perf_counter() - started
    exact, false, worst = judged(result, batch)
    return Cell(samples, protocol, seed, drift, count and count.rank, exact, false, worst, seconds, result.notes[0])


def drift_of(target: Target, seen: Observation) -> float:
    """How far the first layer went, relative to its weights."""
    moved = seen.protocol.moved(seen.update, target.parameters)
    assert moved is not None
    return float(moved[LAYER].norm() / target.parameters[LAYER].norm())


def judged(result: Reconstruction, batch: Batch) -> tuple[int, int, float]:
    """Records read exactly, claims that are none, and the worst PSNR of the claims."""
    claimed = int(result.notes[0].split(" of ")[0])
    if not claimed:
        return 0, 0, float("nan")
    rows = CIFAR.decode(result.inputs[:claimed]).flatten(1).double()
    error = (torch.cdist(rows, batch.images.flatten(1).double()) / rows.shape[1] ** 0.5).clamp_min(1e-12)
    psnr = -20 * error.log10()
    best = psnr.max(1)
    exact = len(set(best.indices[best.values >= EXACT].tolist()))
    return exact, int((psnr.max(1).values < 40).sum()), float(psnr.max(1).values.min())


def cells(sizes: tuple[int, ...]) -> Iterator[Cell]:
    """The grid of the plain cells."""
    grid = product((4, 8, 16), (1, 4, 8), (1, 2, 5), (0.0, 0.9), (0.05, 0.01, 0.002), SEEDS)
    for samples, size, epochs, momentum, rate, seed in grid:
        if samples in sizes:
            local = {"local_epochs": epochs, "local_batch_size": size, "momentum": momentum, "learning_rate": rate}
            yield measure(samples, seed, **local)


def main(sizes: tuple[int, ...]) -> None:
    print(line_of_titles())
    for cell in cells(sizes):
        print(told(cell), flush=True)


def line_of_titles() -> str:
    return "N | B | E | momentum | rate | seed | drift | rank | exact | false | worst dB | s | note"


def told(cell: Cell) -> str:
    p = cell.protocol
    return (
        f"{cell.samples} | {p.local_batch_size} | {p.local_epochs} | {p.momentum:g} | {p.learning_rate:g} | {cell.seed} | "
        f"{cell.drift:.3f} | {cell.rank} | {cell.exact} | {cell.false} | {cell.worst:.1f} | {cell.seconds:.1f} | {cell.note}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tuple(map(int, sys.argv[1:])) or (4, 8, 16))
