"""Step times, precision and one attack on a GPU: one prepared call that ends within its minutes and installs nothing.

    PYTHONPATH=. python benchmarks/gpu.py --minutes 8                   # on a machine with a CUDA device
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --small          # the rehearsal: the same code, in seconds

It needs torch, torchvision and numpy, and this repository on the path; no network, no package of this project. Where
`breaching` can be imported (see benchmarks/peer.py: a folder on ``PYTHONPATH``) it takes part, else its column stays
empty. Images are those in $LEAKAUDIT_DATA, else generated.

1. Step time of `breaching` and of the engine's three modes, eager, traced and compiled, of which the last two replay
   as one CUDA graph; batch 1 and 8, 1 and 16 restarts; peak memory of each on the device.
2. Precision: float32, TF32 in convolutions (what torch does unless told otherwise), TF32, bf16; whether the match
   allows it is decided by measured residuals (benchmarks/gpu_precision.py).
3. IG on one photograph at 224 px through an untrained ResNet-18, for up to five minutes, in float32: PSNR and SSIM
   against steps.

What there is no time for is left out, and the page says what. It is written to `benchmarks/results/gpu.md` on a GPU,
elsewhere only with ``--out``. What else runs on a GPU: ``pytest -m gpu``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch

import gpu_attack
import gpu_precision
import gpu_steps
import torch
from gpu_attack import Attacked
from gpu_plan import REAL, SMALL, Deadline, Plan, sample_of
from gpu_precision import Precisions
from gpu_steps import Steps
from peer import missing, name_and_version
from store import RESULTS, machine

PARTS = ("steps", "precision", "attack")
SHARES = {"precision": 0.06, "attack": 0.62}
"""Of the whole time, where all parts are measured; the attack takes no more than the plan says."""
LAST = 0.02
"""Of the whole time, what is kept to write the page."""


@dataclass(eq=False)
class Results:
    """All parts, as far as they are measured."""

    plan: Plan
    device: torch.device
    steps: Steps
    precisions: Precisions = field(default_factory=Precisions)
    attacked: Attacked = field(default_factory=Attacked)

    @classmethod
    def none(cls, plan: Plan, device: torch.device) -> Results:
        """Of nothing yet."""
        return cls(plan, device, Steps(plan))


def deadlines(plan: Plan, started: float, minutes: float, parts: Sequence[str]) -> Mapping[str, Deadline]:
    """When each of the parts ends that were asked for, in their order."""
    whole = 60 * minutes
    end, ends = started + whole * (1 - LAST), {}
    for part in reversed([part for part in PARTS if part in parts]):
        ends[part] = Deadline(end)
        share = SHARES.get(part, 0.0) * whole
        end -= min(plan.longest, share) if part == "attack" else share
    return dict(reversed(ends.items()))


def run(results: Results, ends: Mapping[str, Deadline], keep: Callable[[str], None]) -> None:
    """Measure the parts that have a deadline, telling them line by line; the page is kept after each."""

    def say(line: str) -> None:
        print(line, flush=True)

    plan, device = results.plan, results.device
    for part, deadline in ends.items():
        if part == "steps":
            gpu_steps.measure(results.steps, device, deadline, say)
        elif part == "precision":
            gpu_precision.measure(results.precisions, plan, device, deadline, say)
        else:
            gpu_attack.measure(results.attacked, plan, device, deadline, say)
            for found in results.attacked.runs:
                results.precisions.reached(plan.photo, found.residual, found.match)
        keep(part)


def page(results: Results, parts: Sequence[str], seconds: float) -> str:
    """Markdown of some parts, after so many seconds in all."""
    plan, device = results.plan, results.device
    small = "A rehearsal on stand-ins: its figures say nothing of real networks. " if plan is SMALL else ""
    source = "generated" if not all(sample_of(space) for _, space in plan.networks.values()) else "of $LEAKAUDIT_DATA"
    sections = {
        "steps": ["## Step time", about_steps(), gpu_steps.table(results.steps)],
        "precision": ["## Precision", gpu_precision.table(results.precisions, device)],
        "attack": [f"## IG on one image: {plan.photo}", gpu_attack.table(results.attacked)],
    }
    said = [
        "# On a GPU" if device.type == "cuda" else "# Rehearsal on a CPU",
        f"{small}`python {shlex.join(sys.argv)}`, {seconds:.0f} s in all. {on(device)}; {machine()}. "
        f"Images are {source}.",
        *(paragraph for part in PARTS if part in parts for paragraph in sections[part]),
        "The tests that need a GPU are run by `pytest -m gpu`.",
    ]
    return "\n\n".join(said) + "\n"


def about_steps() -> str:
    """What the columns are."""
    peer = "its column is empty" if missing() else "one restart, since it runs them in turn"
    return (
        "Milliseconds per iteration and restart, medians over turns side by side; ratios are medians within rounds. "
        f"{name_and_version()}: {peer}. Arithmetic is as torch does it by default. On a GPU a traced and a compiled "
        "step replay as one CUDA graph. A peak is of memory on the device over what was there before, recording "
        "included; on a CPU it is not counted."
    )


def on(device: torch.device) -> str:
    """The device in words."""
    if device.type != "cuda":
        return "No GPU"
    found = torch.cuda.get_device_properties(device)
    return f"{found.name}, {found.total_memory / (1 << 30):.0f} GiB, CUDA {torch.version.cuda}"


def process_age() -> float:
    """Seconds since this process began, imports included; 0 where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))


def main() -> None:
    """Measure, print, and write the page."""
    started = time.monotonic() - process_age()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="stand-ins that take seconds")
    parser.add_argument("--minutes", type=float, default=8.0, help="within which all of it ends (default: 8)")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; repeatable")
    parser.add_argument("--network", action="append", choices=[*REAL.networks], help="only this one; repeatable")
    parser.add_argument("--out", type=Path, help="the page; on a GPU benchmarks/results/gpu.md by default")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device; --device cpu --small is the rehearsal on a processor")
    plan = SMALL if asked.small else REAL.only(asked.network) if asked.network else REAL
    parts = asked.part or PARTS
    out = asked.out or (RESULTS / "gpu.md" if asked.device == "cuda" and not asked.small else None)
    results = Results.none(plan, torch.device(asked.device))

    def keep(part: str) -> None:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(page(results, parts, time.monotonic() - started), encoding="utf-8")

    run(results, deadlines(plan, started, asked.minutes, parts), keep)
    print("\n" + page(results, parts, time.monotonic() - started), flush=True)


if __name__ == "__main__":
    main()
