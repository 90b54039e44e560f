"""What a sweep will cost, before it runs: from cells that the store has, or by the steps that attacks may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from leakaudit.audit.request import Request
from leakaudit.document.counting import count
from leakaudit.document.status import CellStatus
from leakaudit.report.wording import number, seconds
from leakaudit.sweeps.cells import Presentation
from leakaudit.sweeps.engine import Job, jobs_of
from leakaudit.sweeps.grid import Plan
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.runners.processes import usable_cores
from leakaudit.sweeps.store import Store


@dataclass(frozen=True)
class Estimate:
    """What is left of a sweep.

    Args:
        cells: All of them.
        known: Of these, with a result in the store.
        workers: Cells at a time.
        work: Seconds of all cells left, one after the other; ``None`` where no cell was measured.
        steps: Of optimisation that attacks of all cells left may take.
        budget: Seconds of all cells left by their time budgets; ``None`` where one has none.
    """

    cells: int
    known: int
    workers: int
    work: float | None
    steps: int
    budget: float | None

    @property
    def lines(self) -> list[str]:
        """In words."""
        left = self.cells - self.known
        lines = [f"{count(self.cells, 'cell')}, {number(self.known)} of them in the store; {number(left)} to run"]
        if not left:
            return lines
        each, shared = f"{count(self.workers, 'worker')}", max(1, min(self.workers, left))
        if self.work is not None:
            lines.append(f"about {seconds(self.work / shared)} with {each}, by the median of the cells in the store")
        else:
            lines.append(f"no cell in the store tells the time; attacks take up to {number(self.steps)} steps in all")
        if self.budget is not None:
            lines.append(f"at most about {seconds(self.budget / shared)} with {each}, by the time budgets")
        return lines


def estimate(plan: Plan, shown: Presentation, where: str | Path, workers: int | None) -> Estimate:
    """The estimate for a plan; nothing is made or changed.

    Args:
        plan: The cells.
        shown: How their reports would appear.
        where: The store.
        workers: Cells at a time; default one for each core.
    """
    jobs = jobs_of(plan, shown)
    measured = _measured(jobs, where)
    left = [job for job in jobs if job.task.key not in measured]
    budgets = [job.cell.request.time_budget for job in left]
    return Estimate(
        cells=len(jobs),
        known=len(measured),
        workers=workers or usable_cores(),
        work=_work(jobs, left, measured),
        steps=sum(steps_of(job.cell.request) for job in left),
        budget=None if None in budgets else sum(budget for budget in budgets if budget is not None),
    )


def _measured(jobs: Sequence[Job], where: str | Path) -> dict[str, float | None]:
    """Seconds of the cells in the store by their keys; ``None`` for those without a report."""
    store = Store(place_of(where, make=False))
    try:
        keys = store.finished() & {job.task.key for job in jobs}
        found = {key: store.get(key, head_only=True) for key in keys}
    finally:
        store.close()
    return {k: r.seconds if r.status is CellStatus.DONE else None for k, r in found.items() if r is not None}


def _work(jobs: Sequence[Job], left: Sequence[Job], measured: dict[str, float | None]) -> float | None:
    """Seconds of the cells left: the median of those of the same model, or of all."""
    by_model: dict[str, list[float]] = {}
    for job in jobs:
        taken = measured.get(job.task.key)
        if taken is not None:
            by_model.setdefault(job.cell.labels["model"], []).append(taken)
    every = [taken for times in by_model.values() for taken in times]
    if not every:
        return None
    usual = median(every)
    return sum(median(by_model.get(job.cell.labels["model"], [usual])) for job in left)


def steps_of(request: Request) -> int:
    """Steps of optimisation that the attacks of a request may take, on all its victims; references are not counted."""
    from leakaudit.audit.attacks import chosen_attacks
    from leakaudit.audit.draw import DEFAULT_VICTIMS

    each = [attack.planned or 0 for attack in chosen_attacks(request)]
    return sum(each) * (request.victims or DEFAULT_VICTIMS)
