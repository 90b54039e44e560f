"""How well a sweep uses its workers: measured with two, and simulated with up to a thousand.

    python benchmarks/sweep_scaling.py measure FOLDER            # 48 cells: one after the other, then two processes
    python benchmarks/sweep_scaling.py measure FOLDER --ray      # and with two workers of Ray; what is measured stays
    python benchmarks/sweep_scaling.py driver FOLDER             # what one cell costs the driver and the store
    python benchmarks/sweep_scaling.py simulate FOLDER           # measured durations replayed on N workers

``measure`` makes 3 models × 2 modes × 4 defences × 2 seeds of 12 × 12 images and audits them with IG, as many steps as
make a cell last ``--seconds`` or more; it wants a machine that does nothing else. It compares every document with that
of the run one after the other, but for times, prints the efficiency, and writes ``measured.json`` for ``simulate``. A
second call with the same folder runs what is not in there yet. ``--defences 3`` leaves 36 cells, for less time.

How long workers need to start is measured by itself, by a sweep of two files that are no models. The prediction for two
workers is a simulation of the cells' durations one after the other with that start; nothing of the run it predicts.

The simulation hands each cell, in order, to the worker that is free first. Beside the measured durations it knows two
costs: a worker's start, and the time that the driver needs for each cell, during which it serves no other.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
TIMES = {"seconds", "created", "self_sha256", "versions", "device"}
"""Keys of documents that tell when and where they were made."""
RUNS = ("here", "processes", "ray")


@dataclass(frozen=True)
class Costs:
    """What a cell costs beside its audit.

    Args:
        start: Seconds until a new worker audits.
        driver: Seconds that the driver spends on each cell.
    """

    start: float = 0.0
    driver: float = 0.0


def makespan(durations: Sequence[float], workers: int, costs: Costs) -> float:
    """Seconds until the last cell is kept: each goes, in order, to the worker that is free first.

    Args:
        durations: Seconds of the cells.
        workers: How many there are.
        costs: See :class:`Costs`; the driver hands out and keeps one cell at a time.
    """
    free = [costs.start] * workers
    heapq.heapify(free)
    driver = last = 0.0
    for duration in durations:
        driver = max(driver, heapq.heappop(free)) + costs.driver
        end = driver + duration
        heapq.heappush(free, end)
        last = max(last, end)
    return last


def efficiency(durations: Sequence[float], workers: int, costs: Costs) -> float:
    """The time of all cells one after the other, over that of the workers together, start included."""
    return sum(durations) / (workers * makespan(durations, workers, costs))


# Measuring


def make_inputs(folder: Path) -> None:
    """Three models of 12 × 12 images, a batch, and the sweep's file, from fixed seeds."""
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    nets = {
        "mlp": nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 5)),
        "cnn": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, 5)),
        "wide": nn.Sequential(nn.Flatten(), nn.Linear(432, 128), nn.Sigmoid(), nn.Linear(128, 5)),
    }
    for name, net in nets.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                net.eval(), (torch.zeros(1, 3, 12, 12),), str(folder / f"{name}.onnx"), dynamo=False, opset_version=17,
                do_constant_folding=False, input_names=["input"], dynamic_axes={"input": {0: "N"}},
            )  # fmt: skip
    coarse = torch.rand(24, 3, 4, 4)
    images = nn.functional.interpolate(coarse, (12, 12), mode="bilinear", align_corners=True).numpy()
    np.savez(folder / "batch.npz", x=images, y=np.arange(24) % 5)


STEADY = {"search": "false", "tolerance": "0"}
"""Settings with which IG does all of its steps, whatever the model."""


def write_sweep(folder: Path, iterations: int, small: bool, count: int = 4) -> Path:
    """The grid: 3 models × 2 modes × `count` defences × 2 seeds, or 2 × 1 × 2 × 1 to try it."""
    models = ["mlp.onnx", "cnn.onnx", "wide.onnx"][: 2 if small else 3]
    modes, seeds = (["eval"], [0]) if small else (["eval", "train"], [0, 1])
    defences = ["", "prune=0.9", "clip=1.0", "sign"][: 2 if small else count]
    settings = [f"ig.{name}={value}" for name, value in (STEADY | {"iterations": str(iterations)}).items()]
    (folder / "sweep.toml").write_text(
        f'[scan]\nbatch = "batch.npz"\nattack = ["ig"]\npreset = "quick"\ncontrols = "none"\nvictims = 2\n'
        f"mean = [0.5]\nstd = [0.25]\nset = {json.dumps(settings)}\n\n"
        f"[grid]\nmodel = {json.dumps(models)}\nmode = {json.dumps(modes)}\ndefence = {json.dumps(defences)}\n"
        f"seed = {json.dumps(seeds)}\n"
    )
    return folder / "sweep.toml"


def calibrated(folder: Path, seconds: float) -> int:
    """Iterations with which the quickest of the models takes this long, by two short runs of it."""
    import leakaudit

    def taken(steps: int) -> float:
        started = time.perf_counter()
        leakaudit.scan(
            model=folder / "mlp.onnx", batch=folder / "batch.npz", attacks=("ig",), preset="quick", controls="none",
            victims=2, mean=(0.5,), std=(0.25,), settings={"ig": STEADY | {"iterations": str(steps)}}, cache=False,
        )  # fmt: skip
        return time.perf_counter() - started

    few, many = 50, 250
    taken(few)  # imports, and what is compiled once
    at_few, at_many = taken(few), taken(many)
    each = max(1e-4, (at_many - at_few) / (many - few))
    return max(1, round(few + (seconds - at_few) / each))


def run(plan: Path, folder: Path, name: str) -> tuple[float, Any]:
    """One whole sweep into an empty store; seconds, and what it found."""
    import leakaudit

    started = time.perf_counter()
    workers = 1 if name == "here" else 2
    sweep = leakaudit.sweep(plan, runner=name, workers=workers, threads=1, store=folder / f"store-{name}")  # type: ignore[arg-type]
    return time.perf_counter() - started, sweep


def bare(value: Any) -> Any:
    """A document without times, at every depth."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in TIMES}
    return [bare(item) for item in value] if isinstance(value, list) else value


def differing(one: Any, other: Any) -> list[int]:
    """Cells whose documents differ in more than times."""
    wrong = []
    for left, right in zip(one.cells, other.cells, strict=True):
        same = bare(left.model_dump(mode="json")) == bare(right.model_dump(mode="json"))
        if same and left.report:
            documents = [json.loads(sweep.report(left.number).to_json()) for sweep in (one, other)]
            same = bare(documents[0]) == bare(documents[1])
        wrong += [] if same else [left.number]
    return wrong


def startup(folder: Path, name: str) -> float:
    """Seconds of a sweep of two files that are no models: workers start, and end."""
    import leakaudit

    for number in (1, 2):
        (folder / f"none-{number}.onnx").write_bytes(b"no model")
    requests = [leakaudit.Request(model=folder / f"none-{n}.onnx", batch=folder / "batch.npz") for n in (1, 2)]
    started = time.perf_counter()
    leakaudit.sweep(requests, runner=name, workers=2, threads=1, formats=("json",))  # type: ignore[arg-type]
    return time.perf_counter() - started


def measure(folder: Path, seconds: float, small: bool, count: int, names: Sequence[str]) -> None:
    """Run the grid one after the other and on two workers, as far as that is not done yet, compare, and print."""
    written = folder / "measured.json"
    found: dict[str, Any] = json.loads(written.read_text()) if written.exists() else {}
    if not found:
        folder.mkdir(parents=True)
        make_inputs(folder)
        write_sweep(folder, calibrated(folder, seconds), small, count)
    plan = folder / "sweep.toml"
    alone, reference = run(plan, folder, "here")  # out of its store, where it ran before
    found = {"durations": whole(reference, alone), "here": alone, **found}
    durations = found["durations"]
    written.write_text(json.dumps(found, indent=1))
    print(f"{len(durations)} cells of {min(durations):.1f} to {max(durations):.1f} s, {found['here']:.1f} s alone")
    for name in names:
        if name not in found:
            found[name] = compared(plan, folder, name, found["here"], reference)
            written.write_text(json.dumps(found, indent=1))
        tell(name, found[name])


def whole(sweep: Any, alone: float) -> list[float]:
    """Seconds of every cell, with its part of what a run one after the other takes beside audits: loading, reports."""
    audits = [cell.seconds for cell in sweep.cells]
    beside = (alone - sum(audits)) / len(audits)
    return [seconds + beside for seconds in audits]


def compared(plan: Path, folder: Path, name: str, alone: float, reference: Any) -> dict[str, Any]:
    """A run on two workers beside that one after the other."""
    start = startup(folder, name)
    taken, sweep = run(plan, folder, name)
    predicted = makespan(whole(reference, alone), 2, Costs(start))
    return {
        "seconds": taken,
        "efficiency": alone / (2 * taken),
        "start": start,
        "predicted": predicted,
        "differing": differing(reference, sweep),
    }


def tell(name: str, found: dict[str, Any]) -> None:
    """Print what was measured of a runner."""
    taken, start, predicted = found["seconds"], found["start"], found["predicted"]
    once = found["efficiency"] * taken / (taken - start)
    share = f"{found['efficiency']:.1%} of twice, {once:.1%} without {start:.1f} s to start"
    print(f"{name}, 2 workers: {taken:.1f} s, {share}")
    print(f"  {len(found['differing'])} documents differ; simulated {predicted:.1f} s, {predicted / taken - 1:+.1%}")


def _audited(request: Any, observer: Any) -> Any:
    """A report without an audit, for the costs of all else."""
    from tests.report.builder import build

    return build(victims=1, runs=1)


def driver_cost(folder: Path, cells: int = 200) -> float:
    """Seconds of the driver for one cell: its claim, its result kept, its row; the audit itself is left out."""
    import leakaudit
    from leakaudit.sweeps.cells import Presentation, run_cell
    from leakaudit.sweeps.engine import drive, jobs_of
    from leakaudit.sweeps.grid import plan_of
    from leakaudit.sweeps.places import place_of
    from leakaudit.sweeps.results import Result
    from leakaudit.sweeps.store import Store

    for name in ("net.onnx", "batch.npz"):
        (folder / name).write_bytes(b"x")
    requests = [leakaudit.Request(model=folder / "net.onnx", batch=folder / "batch.npz", seed=n) for n in range(cells)]
    jobs = jobs_of(plan_of(requests, folder), Presentation())
    result = run_cell(jobs[0].task, _audited)

    class Instant:
        """A runner whose cells have ended before they begin."""

        slots, threads = 1, 1

        def submit(self, task: Any) -> None:
            self.ended = Result(**{**vars(result), "key": task.key})

        def finished(self, seconds: float) -> list[Result]:
            return [self.ended]

        def close(self) -> None:
            pass

    store = Store(place_of(folder / "store-driver"))
    started = time.perf_counter()
    drive(jobs, store, Instant())
    each = (time.perf_counter() - started) / cells
    store.close()
    print(f"{each * 1000:.1f} ms of the driver for a cell of {len(result.pack()) / 1024:.0f} KiB")
    return each


# Simulating


def table(durations: Sequence[float], costs: Costs, cells: int) -> Iterator[tuple[int, float, float]]:
    """Workers, hours and efficiency for so many cells, drawn from the measured ones."""
    drawn = random.Random(SEED).choices(durations, k=cells)
    for workers in WORKERS:
        taken = makespan(drawn, workers, costs)
        yield workers, taken / 3600, sum(drawn) / (workers * taken)


def simulate(folder: Path, costs: Costs, counts: Sequence[int]) -> None:
    """Print efficiency by the number of workers."""
    measured = json.loads((folder / "measured.json").read_text())
    for cells in counts:
        print(f"\n{cells:,} cells, {costs.driver * 1000:g} ms of the driver, {costs.start:g} s to start a worker")
        print("| workers | hours | efficiency |\n|---:|---:|---:|")
        for workers, hours, share in table(measured["durations"], costs, cells):
            print(f"| {workers} | {hours:,.2f} | {share:.1%} |")


def main(words: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "driver", "simulate"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the quickest cell; chosen by the bar")
    parser.add_argument("--small", action="store_true", help="4 cells, to try it")
    parser.add_argument("--defences", type=int, choices=(1, 2, 3, 4), default=4, help="of the grid")
    parser.add_argument("--ray", action="store_true", help="also on Ray")
    parser.add_argument("--driver-seconds", type=float, default=0.02, help="as the driver command measures")
    parser.add_argument("--start", type=float, default=5.0, help="seconds that a worker needs to start")
    parser.add_argument("--cells", type=int, nargs="*", default=[48, 10_000, 1_000_000])
    asked = parser.parse_args(words)
    if asked.what == "measure":
        measure(asked.folder, asked.seconds, asked.small, asked.defences, RUNS[1 : 3 if asked.ray else 2])
    elif asked.what == "driver":
        asked.folder.mkdir(parents=True, exist_ok=True)
        driver_cost(asked.folder)
    else:
        simulate(asked.folder, Costs(asked.start, asked.driver_seconds), asked.cells)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
