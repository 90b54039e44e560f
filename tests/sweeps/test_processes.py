"""Local workers: one that dies, or takes too much, costs its own cell at most; a killed driver leaves none behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from leakaudit.document.status import CellStatus
from leakaudit.observer import SilentObserver
from leakaudit.sweeps.engine import Job, drive
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.results import Result
from leakaudit.sweeps.runners.base import Here, Limits
from leakaudit.sweeps.runners.processes import Processes
from leakaudit.sweeps.store import Store
from tests.conftest import ROOT
from tests.sweeps.build import audit, begun, jobs


def driven(folder: Path, work: Sequence[Job], limits: Limits | None = None, workers: int = 2) -> list[Result]:
    store = Store(place_of(folder / "store"))
    runner = Processes(audit, workers, 1, limits)
    try:
        return drive(work, store, runner)
    finally:
        runner.close()
        store.close()


def here(folder: Path, work: Sequence[Job]) -> list[Result]:
    store = Store(place_of(folder / "here"))
    try:
        return drive(work, store, Here(audit, SilentObserver(), Limits()))
    finally:
        store.close()


def plain(results: Sequence[Result]) -> list[tuple[str, CellStatus, str, object]]:
    """Without times."""
    return [(result.key, result.status, result.reason, result.facts) for result in results]


def test_a_worker_that_dies_costs_its_own_cell_at_most(tmp_path: Path) -> None:
    work = jobs(tmp_path, ["a", "killer", "broken", "greedy"])
    results = driven(tmp_path, work, Limits(retries=1))
    assert [result.status.name for result in results] == ["DONE", "LOST", "FAILED", "MEMORY"]
    assert results[1].reason.startswith("its worker was killed by SIGKILL")
    assert results[1].reason.endswith("2 times")
    assert begun(tmp_path).count("killer-0") == 2
    assert plain(here(tmp_path, [work[0], *work[2:]])) == plain([results[0], *results[2:]])
    store = Store(place_of(tmp_path / "store"))
    assert len(store.finished()) == 3, "a lost cell is no answer: the next sweep tries it again"
    store.close()


def test_a_cell_over_a_limit_is_ended(tmp_path: Path) -> None:
    (slow,) = driven(tmp_path / "time", jobs(tmp_path, ["slow"]), Limits(seconds=4.0))
    (hog,) = driven(tmp_path / "memory", jobs(tmp_path, ["hog"]), Limits(memory=1.5))
    assert (slow.status, slow.reason) == (CellStatus.TIME, "ended after 4 s, its --cell-time")
    assert (hog.status, hog.reason) == (CellStatus.MEMORY, "ended at 1.5 GiB, its --cell-memory")
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_cell_whose_worker_died_once_is_done(tmp_path: Path) -> None:
    (result,) = driven(tmp_path, jobs(tmp_path, ["once"]))
    assert result.status is CellStatus.DONE
    assert begun(tmp_path) == ["once-0", "once-0"]


DRIVER = """
import sys
from pathlib import Path
from leakaudit.sweeps.engine import drive
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.runners.processes import Processes
from leakaudit.sweeps.store import Store
from tests.sweeps.build import audit, jobs

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    store, runner = Store(place_of(folder / "store")), Processes(audit, 2, 1)
    drive(jobs(folder, ["steady", "broken"], range(16)), store, runner)
    runner.close()
    store.close()
"""


def driver(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, str(folder / "driver.py"), str(folder)], env=environment)


def until(condition: object, seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_drivers_and_workers_end_in_the_same_table(tmp_path: Path) -> None:
    """SIGKILL for the driver or one of its workers at random moments; then a sweep that is let be."""
    work, chance = jobs(tmp_path, ["steady", "broken"], range(16)), random.Random(1)
    store = Store(place_of(tmp_path / "store"))
    after: dict[str, int] = {}
    for number in range(KILLS):
        process = driver(tmp_path)
        already = len(begun(tmp_path))
        until(lambda p=process, a=already: len(begun(tmp_path)) > a or p.poll() is not None)
        time.sleep(chance.uniform(0, 1.5))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if number % 2 and workers:
            os.kill(chance.choice(workers).pid, signal.SIGKILL)
            time.sleep(chance.uniform(0, 1.5))
        process.kill()
        process.wait()
        until(lambda left=workers: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in left))
        after = {key: begun(tmp_path).count(cell) for key, cell in names(work).items() if key in store.finished()}
    results = driven(tmp_path, work)
    assert plain(results) == plain(here(tmp_path, work))
    counts = {key: begun(tmp_path).count(cell) for key, cell in names(work).items()}
    assert {key: counts[key] - 1 for key in after} == after, (
        "the fresh sweep began each once; nothing finished was redone"
    )
    store.close()


KILLS = 10


def names(work: Sequence[Job]) -> dict[str, str]:
    """The cells as :func:`begun` calls them, by their keys."""
    return {j.task.key: f"{Path(str(j.cell.request.model)).stem}-{j.cell.request.seed}" for j in work}
