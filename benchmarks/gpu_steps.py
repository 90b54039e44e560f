"""Step times of `benchmarks/gpu.py`: `breaching` and the engine's three modes, in turns, cell by cell.

A cell is measured twice: eager, traced and `breaching` in a first pass over all cells; eager, compiled and `breaching`
in a second. So ratios to eager and to `breaching` are always of turns that stood side by side.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from contenders import Contender, breaching, clock_of, ours, take_turns, times_as_fast
from gpu_plan import OUT_OF_MEMORY, Cell, Deadline, OutOfTime, Plan, case, left_out, why
from peer import missing

from leakaudit.attacks.base import cpu_generator
from leakaudit.matching.step import Mode

KEYS = ("breaching", "eager", "traced", "compiled")
MEBI = 1 << 20
HEADER = (
    "| network | batch | restarts | breaching, ms | eager, ms | traced, ms | compiled, ms | traced: times eager "
    "| compiled: times eager | best: times breaching | recording, s | compiling, s | peak MiB: breaching | eager "
    "| traced | compiled |"
)
FIRST = 0.6
"""Of the time for steps, that of the first pass; compiling takes minutes."""


@dataclass(frozen=True)
class Figure:
    """What was measured of a contender in a cell.

    Args:
        ms: Milliseconds per iteration and restart, or ``None`` where `note` says why not.
        eager: How many times as fast as the eager step, in the same rounds.
        peer: How many times as fast as breaching, in the same rounds.
        setup: Seconds of recording and compiling.
        peak: MiB on the device at most while it was set up and ran its first turn, over what was there before.
        note: What is to be known of it, or "".
    """

    ms: float | None = None
    eager: float | None = None
    peer: float | None = None
    setup: float = 0.0
    peak: float | None = None
    note: str = ""


Row = dict[str, Figure]


@dataclass(eq=False)
class Steps:
    """Cells as they are measured, and what was left out, with the reason."""

    plan: Plan
    rows: dict[Cell, Row] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


def measure(found: Steps, device: torch.device, deadline: Deadline, say: Callable[[str], None]) -> None:
    """All cells that there is time for.

    A compilation that is interrupted may leave locks of Inductor behind: nothing is compiled after the deadline.
    """
    plan = found.plan
    say(HEADER)
    first = deadline.share(FIRST if plan.compiled else 1.0)
    for cell in plan.grid:
        add(found, cell, ("eager", "traced"), device, first, say)
    for cell in plan.grid[: plan.compiled]:
        add(found, cell, ("eager", "compiled"), device, deadline, say)
    for cell in plan.grid if plan.compiled else ():  # with what time compiling has left
        if not found.rows.get(cell, {}).get("traced"):
            add(found, cell, ("eager", "traced"), device, deadline, say)


def add(
    found: Steps,
    cell: Cell,
    modes: tuple[Mode, Mode],
    device: torch.device,
    deadline: Deadline,
    say: Callable[[str], None],
) -> None:
    """Measure a cell in two modes, beside what is known of it; or say why not."""
    what = told(cell, modes[1])
    try:
        release(device, deadline)
        with deadline.kept():
            new = figures(found.plan, cell, modes, device, deadline)
    except (OutOfTime, Exception) as error:
        found.lacking[what] = why(error)
        return
    found.lacking.pop(what, "")
    found.rows[cell] = {**new, **found.rows.get(cell, {})}
    say(line(cell, found.rows[cell]))


def told(cell: Cell, mode: Mode) -> str:
    """A cell in a mode, in words."""
    name, batch, restarts = cell
    return f"{name}, batch {batch}, {restarts} restart{'s' if restarts > 1 else ''}, {mode}"


def figures(plan: Plan, cell: Cell, modes: Sequence[Mode], device: torch.device, deadline: Deadline) -> Row:
    """The contenders of a cell in turns; those that find no memory beside the others, alone."""
    running: dict[str, Contender] = {}
    peaks: dict[str, float | None] = {}
    failed: Row = {}
    for key, make in makers(plan, cell, modes, device).items():
        try:
            running[key], peaks[key] = set_up(make, plan, device)
        except Exception as error:  # its traceback holds what was made so far
            failed[key] = Figure(note=failure(error, deadline))
        if key in failed:
            release(device)
    take_turns(running, plan.rounds, deadline.left)
    found = {key: figure(key, running, peaks[key]) for key in running if running[key].turns}
    if running and not found:
        raise OutOfTime
    crowded = [key for key in failed if failed[key].note == OUT_OF_MEMORY and running]
    running.clear()
    with suppress(OutOfTime):  # what was measured stays
        for key in crowded:
            release(device, deadline)
            failed[key] = by_itself(makers(plan, cell, modes, device)[key], plan, device, deadline)
    return {**failed, **found}


def failure(error: Exception, deadline: Deadline) -> str:
    """What a contender failed of.

    Raises:
        OutOfTime: Of the interruption.
    """
    if deadline.left() <= 0:
        raise OutOfTime from error
    return why(error)


def by_itself(make: Callable[[], Contender], plan: Plan, device: torch.device, deadline: Deadline) -> Figure:
    """A contender that found no memory beside the others."""
    try:
        one, peak = set_up(make, plan, device)
        take_turns({"": one}, plan.rounds, deadline.left)
    except Exception as error:
        return Figure(note=failure(error, deadline))
    return replace(figure("", {"": one}, peak), note="measured alone")


def makers(plan: Plan, cell: Cell, modes: Sequence[Mode], device: torch.device) -> dict[str, Callable[[], Contender]]:
    """What sets up the contenders of a cell, by name."""
    name, batch, restarts = cell
    net, seen, _ = case(plan, name, batch, device)
    start = torch.randn(restarts, batch, *net.image_shape, generator=cpu_generator(0)).to(device)
    threads = torch.get_num_threads()
    clock = clock_of(device, threads)
    found: dict[str, Callable[[], Contender]] = {}
    if not missing():
        found["breaching"] = lambda: breaching(net, seen, start, threads, clock)
    for mode in modes:
        found[mode] = lambda mode=mode: ours(net, seen, start, mode, threads, clock)  # type: ignore[misc]
    return found


def set_up(make: Callable[[], Contender], plan: Plan, device: torch.device) -> tuple[Contender, float | None]:
    """A contender after its first turn, and the MiB that it took at most; ``None`` on a CPU, where nobody counts."""
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    made = make()
    made.warm_up(plan.turn, least=1)
    if device.type != "cuda":
        return made, None
    return made, (torch.cuda.max_memory_allocated(device) - before) / MEBI


def figure(key: str, running: Mapping[str, Contender], peak: float | None) -> Figure:
    """What the turns of a contender say."""
    own = running[key]

    def against(other: str) -> float | None:
        return times_as_fast(running[other], own) if other in running and key != other else None

    note = own.note.partition(":")[0] if own.mode not in ("", key) and key else ""
    return Figure(own.median, against("eager"), against("breaching"), own.setup, peak, note)


def release(device: torch.device, deadline: Deadline | None = None) -> None:
    """Give back what was held by those before, unless it is too late for others.

    Raises:
        OutOfTime: It is.
    """
    if deadline is not None and deadline.left() <= 0:
        raise OutOfTime
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def line(cell: Cell, row: Row) -> str:
    """Of the table."""

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    def ms(key: str) -> str:
        known = row.get(key, Figure())
        text = number(known.ms, ".3g")
        return known.note if known.ms is None and known.note else text + (f" ({known.note})" if known.note else "")

    traced, compiled = row.get("traced", Figure()), row.get("compiled", Figure())
    peers = [value.peer for key, value in row.items() if key != "breaching" and value.peer is not None]
    cells = [*map(str, cell), *map(ms, KEYS), number(traced.eager, ".2f"), number(compiled.eager, ".2f")]
    cells += [number(max(peers, default=None), ".2f")]
    cells += [number(each.setup if each.ms else None, ".1f") for each in (traced, compiled)]
    cells += [number(row.get(key, Figure()).peak, ".0f") for key in KEYS]
    return "| " + " | ".join(cells) + " |"


def table(found: Steps) -> str:
    """Markdown of all cells, what was left out below."""
    rows = [line(cell, found.rows.get(cell, {})) for cell in found.plan.grid]
    text = "\n".join([HEADER, "|---" * (HEADER.count("|") - 1) + "|", *rows])
    return "\n\n".join(filter(None, [text, left_out(found.lacking)]))
