"""IG on one photograph in `benchmarks/gpu.py`: PSNR and SSIM against steps, by two presets, each in its share of time.

*standard* plans its steps as a scan with that time budget does; *paper* takes as many steps as fit by a measured one,
in the mode that replays as one CUDA graph. All arithmetic is float32, so that what they reach says what other
precisions may cost. Neither sees the photograph, which only scores what they return.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from contenders import clock_of, ours
from gpu_plan import Deadline, OutOfTime, Plan, Until, case, left_out, why
from gpu_precision import computing
from gpu_steps import release
from networks import psnr
from torch import Tensor

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.ssim import ssim
from leakaudit.target.target import Target

FILLED = 0.9
"""Of an attack's time, what is filled with steps, so that its schedule ends; as `leakaudit.matching.engine` plans."""
HEADER = "| preset | steps | PSNR, dB | SSIM | match | seconds |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Point:
    """Where an attack was: steps of the descent that led there, and how close its image was."""

    steps: int
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Run:
    """One attack.

    Args:
        preset: Its settings.
        points: On its way, the result last.
        residual: Where it ended.
        match: Cosine distance there.
        seconds: In all.
        spent: Steps in all, trials included.
        note: What it had less of than planned, or "".
    """

    preset: str
    points: tuple[Point, ...]
    residual: float
    match: float
    seconds: float
    spent: int
    note: str


@dataclass(eq=False)
class Attacked:
    """The attacks that there was time for, the PSNR of flat images, and what was left out, with the reason."""

    runs: list[Run] = field(default_factory=list)
    floors: dict[str, float] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


def measure(found: Attacked, plan: Plan, device: torch.device, deadline: Deadline, say: Callable[[str], None]) -> None:
    """Both presets, the first in half of the time, the second in what is left, none for longer than planned."""
    say(HEADER)
    whole = Deadline(min(deadline.at, time.monotonic() + plan.longest))
    for preset, share in (("standard", 0.5), ("paper", 1.0)):
        try:
            release(device, whole)
            with whole.kept(), computing("float32", device):
                run, found.floors = attack(plan, preset, device, whole.share(share))
        except (OutOfTime, Exception) as error:
            found.lacking[preset] = why(error)
            continue
        found.runs.append(run)
        say("\n".join(lines(run)))


def attack(plan: Plan, preset: str, device: torch.device, deadline: Deadline) -> tuple[Run, dict[str, float]]:
    """One preset until the deadline, and the floors."""
    net, seen, images = case(plan, plan.photo, 1, device)
    truth, space = images.cpu(), net.domain
    assert isinstance(space, Images)
    settings = IG.presets[preset]
    if preset == "standard":
        monitor = Until(at=deadline.share(FILLED).at, told=True)
        settings = replace(settings, iterations=min(plan.steps, settings.iterations))
    else:
        settings = replace(settings, iterations=affordable(plan, net, seen, device, deadline), execution=plan.mode)
        monitor = Until(at=deadline.share((1 + FILLED) / 2).at)
    found = IG(settings)(net, seen, cpu_generator(0), monitor)
    floors = {
        "grey": psnr(space.encode(torch.full_like(truth, 0.5)), truth, space),
        "its mean colour": psnr(space.encode(truth.mean((2, 3), keepdim=True).expand_as(truth)), truth, space),
    }
    return scored(preset, found, truth, space), floors


def affordable(plan: Plan, net: Target, seen: Observation, device: torch.device, deadline: Deadline) -> int:
    """Steps that fit, by one that is measured."""
    start = torch.randn(1, 1, *net.image_shape, generator=cpu_generator(0)).to(device)
    wall = clock_of(device)
    measured = ours(net, seen, start, plan.mode, torch.get_num_threads(), wall)
    measured.warm_up(plan.turn)
    measured.turn(measured.iterations)
    again = measured.setup  # the attack records its own
    return max(1, min(plan.steps, int(FILLED * (deadline.left() - again) / measured.median * 1000)))


def scored(preset: str, found: Reconstruction, truth: Tensor, space: Images) -> Run:
    """What an attack returned against the photograph."""
    last = found.history[-1].iteration + 1 if found.history else found.iterations

    def point(steps: int, inputs: Tensor) -> Point:
        similarity = ssim(space.decode(inputs.cpu())[0], truth[0])
        return Point(steps, psnr(inputs, truth, space), float("nan") if similarity is None else similarity)

    way = [point(round(shot.fraction * last), shot.inputs) for shot in found.snapshots]
    end = point(last, found.inputs)
    return Run(preset, (*way, end), found.residual, found.match, found.seconds, found.iterations, found.stopped)


def lines(run: Run) -> list[str]:
    """Of the table."""
    *way, end = run.points
    rows = [f"| {run.preset} | {at.steps} | {at.psnr:.1f} | {at.ssim:.3f} |  |  |" for at in way]
    last = f"{end.steps}, of {run.spent} in all" if run.spent != end.steps else str(end.steps)
    last += f" ({run.note})" if run.note else ""
    return [*rows, f"| {run.preset} | {last} | {end.psnr:.1f} | {end.ssim:.3f} | {run.match:.1e} | {run.seconds:.1f} |"]


def table(found: Attacked) -> str:
    """Markdown, with the floors below."""
    parts = ["\n".join([HEADER, *(row for run in found.runs for row in lines(run))])]
    if found.floors:
        told = ", ".join(f"{name} {value:.1f} dB" for name, value in found.floors.items())
        parts.append(f"For comparison, a flat image: {told}.")
    return "\n\n".join(filter(None, [*parts, left_out(found.lacking)]))
