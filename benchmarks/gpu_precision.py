"""Precision of a step in `benchmarks/gpu.py`: what TF32 and bf16 cost, measured, beside what they bring.

The update of a client is computed in float32. Recomputed from its true inputs in another precision it differs, by the
residual ‖g − g*‖ / ‖g*‖, and by its cosine distance, the match: the floor of the objective. An attack in float32 ends
at a residual and a match too. A precision is allowed where its own are the smaller: then arithmetic is not what ends
the attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from contenders import Contender, clock_of, ours, take_turns, times_as_fast
from gpu_plan import Deadline, OutOfTime, Plan, Until, case, left_out, why
from gpu_steps import release

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG
from leakaudit.matching.objective import CosineDistance
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.parts import squared, squared_difference
from leakaudit.target.target import Target

Precision = Literal["float32", "TF32 in convolutions", "TF32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HEADER = (
    "| network | precision | residual at the truth | match at the truth | float32 attack: residual | match "
    "| ms per iteration | times float32 | the match allows it |"
)


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """All arithmetic within in a precision; ``TF32 in convolutions`` is what torch does unless told otherwise."""
    multiplied, convolved = torch.backends.cuda.matmul, torch.backends.cudnn
    before = multiplied.allow_tf32, convolved.allow_tf32
    multiplied.allow_tf32 = precision == "TF32"
    convolved.allow_tf32 = precision.startswith("TF32")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        multiplied.allow_tf32, convolved.allow_tf32 = before


@dataclass(frozen=True)
class Precise:
    """What was measured of a precision on a network.

    Args:
        residual: Of the update recomputed from the true inputs.
        match: Cosine distance there.
        reached: Residual at which the attack in float32 ended.
        reached_match: Cosine distance there.
        ms: Milliseconds per iteration, or ``None`` where there was no time.
        faster: Times as fast as float32.
    """

    residual: float
    match: float
    reached: float
    reached_match: float
    ms: float | None
    faster: float | None

    @property
    def allowed(self) -> bool:
        """Whether arithmetic is not what ends an attack, be its distance squared or a cosine."""
        return self.residual < self.reached and self.match < self.reached_match


@dataclass(eq=False)
class Precisions:
    """Networks as they are measured, and what was left out, with the reason."""

    rows: dict[tuple[str, Precision], Precise] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)

    def reached(self, name: str, residual: float, match: float) -> None:
        """Take note of another attack in float32 on a network."""
        for key, row in self.rows.items():
            if key[0] == name and match < row.reached_match:
                self.rows[key] = replace(row, reached=residual, reached_match=match)


def measure(
    found: Precisions, plan: Plan, device: torch.device, deadline: Deadline, say: Callable[[str], None]
) -> None:
    """All networks that there is time for; each has its share of what is left."""
    say(HEADER)
    for number, name in enumerate(plan.precise):
        try:
            release(device, deadline)
            one = Compared(plan, name, device, deadline.share(1 / (len(plan.precise) - number)))
        except (OutOfTime, Exception) as error:
            found.lacking[name] = why(error)
            continue
        try:
            timed = one.times()
        except (OutOfTime, Exception) as error:
            found.lacking[f"{name}, time of a step"] = why(error)
            timed = {}
        for precision, row in one.rows(timed).items():
            found.rows[name, precision] = row
            say(line(name, precision, row))


@dataclass(eq=False)
class Compared:
    """One network in every precision that the device has: what an attack in float32 reaches, and what each starts from.

    Raises:
        OutOfTime: The deadline has come, also of the methods.
    """

    plan: Plan
    name: str
    device: torch.device
    deadline: Deadline

    def __post_init__(self) -> None:
        self.known = PRECISIONS if self.device.type == "cuda" else (PRECISIONS[0], PRECISIONS[-1])
        with self.deadline.kept():
            with computing("float32", self.device):
                self.net, self.seen, images = case(self.plan, self.name, 1, self.device)
            true = Play(self.net.domain.encode(images), self.seen.labels)
            self.truth: dict[Precision, tuple[float, float]] = {}
            for precision in self.known:
                with computing(precision, self.device):
                    self.truth[precision] = at_the_truth(self.net, self.seen, true)
            settings = replace(IG.presets["standard"], iterations=self.plan.attack)
            until = Until(at=self.deadline.share(0.5).at, told=True)
            with computing("float32", self.device):
                self.attacked = IG(settings)(self.net, self.seen, cpu_generator(0), until)

    def times(self) -> dict[Precision, Contender]:
        """A step in every precision, in turns."""
        start = torch.randn(1, 1, *self.net.image_shape, generator=cpu_generator(0)).to(self.device)
        threads = torch.get_num_threads()
        clock = clock_of(self.device, threads)
        found: dict[Precision, Contender] = {}
        with self.deadline.kept():
            for precision in self.known:
                with computing(precision, self.device):
                    made = ours(self.net, self.seen, start, self.plan.mode, threads, clock)
                found[precision] = replace(made, run=within(precision, self.device, made.run))
                found[precision].warm_up(self.plan.turn, least=1)
            take_turns(found, self.plan.rounds, self.deadline.left)
        return found if found["float32"].turns else {}

    def rows(self, timed: Mapping[Precision, Contender]) -> dict[Precision, Precise]:
        """What was measured, with the times where there are any."""
        found = {}
        for precision in self.known:
            ms = timed[precision].median if timed else None
            faster = times_as_fast(timed["float32"], timed[precision]) if timed else None
            reached = self.attacked.residual, self.attacked.match
            found[precision] = Precise(*self.truth[precision], *reached, ms, faster)
        return found


def at_the_truth(net: Target, seen: Observation, true: Play) -> tuple[float, float]:
    """Residual and cosine distance of the update recomputed from the true inputs."""
    again = {name: tensor.detach().float() for name, tensor in seen.regenerate(net, true).items()}
    difference = sum(squared_difference(again[name], shared) for name, shared in seen.update.items())
    norm = sum(map(squared, seen.update.values()))
    match = CosineDistance(tuple(seen.update.values()))([again[name] for name in seen.update])
    return (difference / norm) ** 0.5, float(match)


def within(precision: Precision, device: torch.device, run: Callable[[int], object]) -> Callable[[int], object]:
    """The same in a precision."""

    def wrapped(iterations: int) -> object:
        with computing(precision, device):
            return run(iterations)

    return wrapped


def line(name: str, precision: Precision, row: Precise) -> str:
    """Of the table."""
    ms = "–" if row.ms is None else f"{row.ms:.3g}"
    faster = "–" if row.faster is None else f"{row.faster:.2f}"
    figures = [row.residual, row.match, row.reached, row.reached_match]
    verdict = "by definition" if precision == "float32" else "yes" if row.allowed else "no"
    return f"| {name} | {precision} | " + " | ".join([*(f"{x:.1e}" for x in figures), ms, faster, verdict]) + " |"


def sentence(found: Precisions, precision: Precision) -> str:
    """Whether the match allows a precision, over all networks."""
    rows = {name: row for (name, own), row in found.rows.items() if own == precision}
    if not rows:
        return ""
    said = [
        f"{name}, {'yes' if row.allowed else 'no'}: at the truth it is {row.residual:.1e} off with a match of "
        f"{row.match:.1e}, a float32 attack ended at {row.reached:.1e} and {row.reached_match:.1e}"
        for name, row in rows.items()
    ]
    return f"Whether the match allows {precision}: {'; '.join(said)}."


def table(found: Precisions, device: torch.device) -> str:
    """Markdown, with a sentence for each precision below."""
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|", *(line(*key, row) for key, row in found.rows.items())]
    if device.type != "cuda":
        lines += [f"| all | {precision} | not there on a CPU |" + "  |" * 6 for precision in PRECISIONS[1:3]]
    said = [sentence(found, precision) for precision in PRECISIONS[1:]]
    return "\n\n".join(["\n".join(lines), *filter(None, [*said, left_out(found.lacking)])])
