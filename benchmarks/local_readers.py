"""What the exact readers read from the weights that clients exchange after local steps.

    python benchmarks/local_readers.py grid          # every cell, and the table of results, results/local_readers.md
    python benchmarks/local_readers.py grid 4 8      # some numbers of records only
    python benchmarks/local_readers.py others        # one record, large clients, weight decay, Adam
    python benchmarks/local_readers.py table         # the table from what was measured

An MLP 3072-512-10 (ReLU, biases, untrained) on test images of CIFAR-10; float32 weights are exchanged. A record counts
as exact from 90 dB on; a reading is false where the attack claims it and it is nearer than 40 dB to no record. Drift is
‖ΔW₁‖ / ‖W₁‖; beyond .35 nothing is attacked. Seed 0 was used while the tolerances were chosen, seed 100 was not.

Needs cifar10_test.npz (arrays x, uint8, NCHW, and y) in the folder LEAKAUDIT_DATA. Times are of one thread.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import CIFAR, cifar
from benchmarks.store import RESULTS, machine
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.reading.records import distinct_records
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.client.rounds.local import local_decay
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

SEEDS = (0, 100)
RATES = (0.02, 0.002)
EXACT, FALSE = 90.0, 40.0
DRIFT, BEYOND = 0.10, 0.35
LAYER = "1.weight"
STORE = RESULTS / "local_readers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One client, attacked: how it trained and what was read of it."""

    table: str
    records: int
    seed: int
    local: dict[str, Any]
    drift: float
    rank: int | None
    exact: int = 0
    false: int = 0
    worst: float | None = None
    seconds: float = 0.0
    note: str = ""


def network(seed: int) -> Target:
    """The MLP with seeded weights."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    return Target(module, "mlp", "module", CIFAR.shape, "NCHW", CIFAR, SingleLabel(10))


def client(records: int, seed: int) -> Batch:
    """Test images, drawn without replacement."""
    images, labels = cifar()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:records]
    return Batch(images[chosen], labels[chosen], tuple(chosen.tolist()))


def measure(table: str, records: int, seed: int, attack: Attack, *, fitted: bool = False, **local: Any) -> Cell:
    """One client under these settings; where weight decay is `fitted`, the attacker is not told of it."""
    target, batch, protocol = network(seed), client(records, seed), FedAvg(records, **local)
    seen = observe(target, batch, protocol, CIFAR, seed)
    drift = drift_of(target, seen)
    if fitted:
        seen = with_fitted_decay(target, seen, replace(protocol, weight_decay=0.0))
        local["weight_decay_fitted"] = seen.protocol.settings["weight_decay"]
    count = distinct_records(target, seen)
    cell = Cell(table=table, records=records, seed=seed, local=local, drift=drift, rank=count and count.rank)
    refused = attack.refusal(target, seen)
    if refused is not None or drift > BEYOND:
        return replace(cell, note=refused.reason if refused else "not attacked")
    seen = replace(seen, labels=batch.labels, label_source="given")  # SPEAR and the reader find them themselves
    started = time.perf_counter()
    result = attack(target, seen, cpu_generator(seed))
    exact, false, worst = judged(result, batch)
    seconds = time.perf_counter() - started
    return replace(cell, exact=exact, false=false, worst=worst, seconds=seconds, note=result.notes[0])


def with_fitted_decay(target: Target, seen: Observation, told: FedAvg) -> Observation:
    """What an attacker sees who was not told of weight decay, once it is fitted."""
    moved = seen.protocol.moved(seen.update, target.parameters)
    assert moved is not None
    after = {name: (tensor + moved[name]).detach() for name, tensor in target.parameters.items()}
    found = local_decay(RecordedUpdate(after, "", "", "weights"), target.parameters, told)
    protocol = replace(told, weight_decay=found.decay.rate if found.decay else 0.0)
    update = protocol.from_shared(found.tensors, target.parameters)
    return replace(seen, update=update, protocol=protocol, exchange=protocol.rounding(update, target.parameters))


def drift_of(target: Target, seen: Observation) -> float:
    """How far the first layer went, relative to its weights."""
    moved = seen.protocol.moved(seen.update, target.parameters)
    assert moved is not None
    return float(moved[LAYER].detach().norm() / target.parameters[LAYER].detach().norm())


def judged(result: Reconstruction, batch: Batch) -> tuple[int, int, float | None]:
    """Records read exactly, claims that are none, and the worst PSNR of the claims."""
    claimed = int(result.notes[0].split(" of ")[0])
    if not claimed:
        return 0, 0, None
    best = decibels(CIFAR.decode(result.inputs[:claimed]), batch.images).max(1)
    exact = len(set(best.indices[best.values >= EXACT].tolist()))
    return exact, int((best.values < FALSE).sum()), float(best.values.min())


def decibels(found: Tensor, truth: Tensor) -> Tensor:
    """PSNR of every reading with every record (found, truth)."""
    difference = found.flatten(1).double()[:, None] - truth.flatten(1).double()[None]
    return -10 * difference.square().mean(2).clamp_min(1e-16).log10()


def spear(rounds: int = 40) -> Spear:
    """With the standard preset's settings."""
    return Spear(SpearSettings(rounds=rounds))


def grid(sizes: Sequence[int]) -> Iterator[Cell]:
    """Every cell of SGD without decay."""
    for seed, records, size, epochs, momentum, rate in product(SEEDS, sizes, (1, 4, 8), (1, 2, 5), (0.0, 0.9), RATES):
        local = {"local_batch_size": size, "local_epochs": epochs, "momentum": momentum, "learning_rate": rate}
        yield measure("grid", records, seed, spear(), **local)


def others() -> Iterator[Cell]:
    """One record, large clients, weight decay, and Adam."""
    reader = LinearReader(LinearSettings())
    for seed in SEEDS:
        for epochs, momentum in product((1, 2, 5, 20), (0.0, 0.9)):
            yield measure("one", 1, seed, reader, local_epochs=epochs, momentum=momentum, learning_rate=0.002)
        yield measure("large", 20, seed, spear(), local_batch_size=4, local_epochs=5, learning_rate=0.002)
        yield measure("large", 24, seed, spear(), local_batch_size=4, local_epochs=1, learning_rate=0.002)
        for size, fitted in product((4, 8), (False, True)):
            decay = {"local_batch_size": size, "local_epochs": 2, "learning_rate": 0.01, "weight_decay": 5e-4}
            yield measure("decay", 8, seed, spear(), fitted=fitted, **decay)
        for attack, optimizer in product((spear(), reader), ("adam", "adamw", "rmsprop")):
            local = {"local_batch_size": 4, "local_epochs": 2, "learning_rate": 1e-3, "optimizer": optimizer}
            yield measure("other optimizers", 8, seed, attack, **local)


def told(cell: Cell) -> str:
    """A row of the table."""
    local = cell.local
    settings = (local.get("local_batch_size", cell.records), local.get("local_epochs", 1), local.get("momentum", 0))
    worst = "" if cell.worst is None else f"{min(cell.worst, 160):.0f}"
    rest = ", ".join(f"{name} {value:.3g}" for name, value in local.items() if name.startswith("weight"))
    if "optimizer" in local:
        rest = f"{local['optimizer']}: {cell.note}"
    cells = (
        *(cell.records, *settings, local["learning_rate"], cell.seed, f"{cell.drift:.3f}"),
        *("" if cell.rank is None else cell.rank, cell.exact, cell.false, worst, f"{cell.seconds:.1f}", rest),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


HEAD = """| N | batch | epochs | momentum | rate | seed | drift | rank | exact | false | worst dB | s | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def summary(cells: Sequence[Cell]) -> str:
    """What the grid shows, in sentences."""
    within = [c for c in cells if c.drift <= DRIFT]
    all_read = sum(c.exact == c.records for c in within)
    stable = [c for c in cells if math.isfinite(c.drift) and c.drift <= BEYOND]
    ranks = sum(c.rank == c.records for c in stable)
    slowest = {n: max((c.seconds for c in within if c.records == n), default=0.0) for n in (4, 8, 16)}
    times = ", ".join(f"N {n}: {value:.1f} s" for n, value in slowest.items())
    return (
        f"{len(cells)} cells. Of {len(within)} with a drift of at most {DRIFT:g}, all records were read exactly in "
        f"{all_read}; false readings in all cells: {sum(c.false for c in cells)}. The rank is the number of records in "
        f"{ranks} of {len(stable)} cells with a drift of at most {BEYOND:g}. Slowest within {DRIFT:g}: {times}."
    )


def table() -> None:
    """Write the page of results."""
    cells = [Cell(**json.loads(line)) for line in STORE.read_text(encoding="utf-8").splitlines()]
    parts = ["# Exact readers after local steps\n", (__doc__ or "").split("\n\n")[2] + "\n", machine() + "\n"]
    for name in dict.fromkeys(c.table for c in cells):
        own = [c for c in cells if c.table == name]
        parts.append(f"\n## {name}\n\n" + (summary(own) + "\n\n" if name == "grid" else "") + HEAD)
        parts += [told(cell) for cell in own]
    (RESULTS / "local_readers.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def run(cells: Iterator[Cell]) -> None:
    """Measure, print and keep."""
    for cell in cells:
        print(told(cell), flush=True)
        with STORE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cell), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = sys.argv[1] if len(sys.argv) > 1 else "table"
    if what == "grid":
        run(grid(tuple(map(int, sys.argv[2:])) or (4, 8, 16)))
    elif what == "others":
        run(others())
    table()
