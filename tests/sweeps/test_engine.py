"""The driver: every cell comes to an end once, what is done stays done, and drivers share a store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import leakaudit
from leakaudit.document.status import CellStatus, VerdictStatus
from leakaudit.document.sweep import SweepDocument
from leakaudit.errors import UsageError
from leakaudit.observer import SilentObserver
from leakaudit.policy.read import Policy
from leakaudit.sweeps.cells import Presentation
from leakaudit.sweeps.engine import Job, Progress, SilentWatcher, drive
from leakaudit.sweeps.grid import Cell, plan_of
from leakaudit.sweeps.outcome import SweepReport
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.results import Result
from leakaudit.sweeps.run import Running, run_sweep
from leakaudit.sweeps.runners.base import Here, Limits
from leakaudit.sweeps.store import Store
from tests.sweeps.build import PLAIN, audit, begun, jobs, requests


class Following(SilentWatcher):
    """Notes what it is told, and stops after so many cells."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.cells: list[tuple[int, CellStatus, Progress]] = []
        self.stop_after = stop_after

    def ended(self, cell: Cell, result: Result, progress: Progress) -> None:
        self.cells.append((cell.number, result.status, progress))

    def interrupted(self) -> bool:
        return len(self.cells) >= self.stop_after


def driven(folder: Path, work: Sequence[Job], watcher: SilentWatcher | None = None) -> list[Result]:
    store = Store(place_of(folder / "store"))
    runner = Here(audit, SilentObserver(), Limits())
    try:
        return drive(work, store, runner, watcher)
    finally:
        runner.close()
        store.close()


def swept(folder: Path, names: Sequence[str], shown: Presentation = PLAIN, **running: object) -> SweepReport:
    plan = plan_of(requests(folder, names), folder)
    return run_sweep(plan, audit, Running(**running), shown, folder / "store")  # type: ignore[arg-type]


def test_every_cell_comes_to_an_end_and_a_failure_ends_nothing_else(tmp_path: Path) -> None:
    work = jobs(tmp_path, ["a", "broken", "greedy", "defect", "tight"])
    watcher = Following()
    results = driven(tmp_path, work, watcher)
    assert [r.status.name for r in results] == ["DONE", "FAILED", "MEMORY", "FAILED", "DONE"]
    assert results[1].reason == "not a model that torch could read"
    assert results[3].reason == "internal error, a defect of leakaudit: KeyError: 'secret value'"
    assert results[0].facts is not None
    assert (results[0].facts.leaked, results[0].facts.samples, results[0].files) == (1, 4, {})
    assert [progress.done for _, _, progress in watcher.cells] == [1, 1, 1, 1, 2]
    assert [progress.failed for _, _, progress in watcher.cells] == [0, 1, 2, 3, 3]
    assert watcher.cells[-1][2].left == 0.0


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    work = jobs(tmp_path, ["a", "broken", "b"], seeds=(0, 1))
    first = driven(tmp_path, work)
    assert begun(tmp_path) == ["a-0", "a-1", "b-0", "b-1", "broken-0", "broken-1"]
    assert driven(tmp_path, work) == first
    assert len(begun(tmp_path)) == 6
    more = jobs(tmp_path, ["a", "b", "c"], seeds=(0, 1))
    driven(tmp_path, more)
    assert begun(tmp_path)[-2:] == ["c-0", "c-1"]
    assert len(begun(tmp_path)) == 8


def test_an_interrupted_sweep_goes_on_to_the_same_table(tmp_path: Path) -> None:
    names, seeds = ("a", "tight", "broken"), (0, 1, 2)
    work = jobs(tmp_path, names, seeds)
    partial = driven(tmp_path, work, Following(stop_after=4))
    assert [result.status.name for result in partial].count("NOT_RUN") == 5
    resumed = driven(tmp_path, work)
    whole = tmp_path / "whole"
    whole.mkdir()
    fresh = driven(whole, jobs(whole, names, seeds))
    assert [(r.status, r.facts) for r in resumed] == [(r.status, r.facts) for r in fresh]
    assert len(begun(tmp_path)) == 9


def test_two_drivers_share_the_work(tmp_path: Path) -> None:
    work = jobs(tmp_path, ["long"], seeds=range(8))
    found: list[list[Result]] = []
    drivers = [threading.Thread(target=lambda: found.append(driven(tmp_path, work))) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert found[0] == found[1]
    assert all(result.status is CellStatus.DONE for result in found[0])
    assert begun(tmp_path) == [f"long-{seed}" for seed in range(8)]


def test_a_sweep_is_a_table_with_the_report_of_every_cell(tmp_path: Path) -> None:
    sweep = swept(tmp_path, ["a", "broken", "tight"])
    a, broken, tight = sweep.cells
    assert (a.model, a.mode, a.defence, a.seed, a.verdict) == (
        "a.onnx",
        "eval",
        "none",
        0,
        VerdictStatus.LEAKS_MEASURED,
    )
    assert (a.leaked, a.samples, a.status, a.report, bool(a.failing)) == (1, 4, CellStatus.DONE, "cells/0001", True)
    assert (broken.status, broken.verdict, broken.report) == (CellStatus.FAILED, None, None)
    assert (tight.verdict, tight.failing) == (VerdictStatus.NOT_SHOWN, [])
    assert sweep.report(1).target.name == "a"
    with pytest.raises(UsageError, match="cell 2 has no report"):
        sweep.report(2)
    document = SweepDocument.model_validate_json(sweep.document.model_dump_json())
    assert document == sweep.document


def test_the_exit_code_says_the_worst(tmp_path: Path) -> None:
    assert swept(tmp_path, ["tight"]).exit_code == 0
    assert swept(tmp_path, ["tight", "a"]).exit_code == 1
    assert swept(tmp_path, ["tight", "a", "broken"]).exit_code == 3
    never = replace(PLAIN, policy=Policy(fail_on="never"))
    assert swept(tmp_path, ["tight", "a"], never).exit_code == 0
    stopped = swept(tmp_path, ["a"]).document.model_copy(update={"partial": "interrupted"})
    assert stopped.exit_code == 130


def test_another_policy_judges_again_without_auditing_again(tmp_path: Path) -> None:
    first = swept(tmp_path, ["a"])
    count = len(begun(tmp_path))
    lenient = replace(PLAIN, policy=Policy(fail_on="never"))
    second = swept(tmp_path, ["a"], lenient)
    assert first.cells[0].failing
    assert second.cells[0].failing == []
    assert not any(finding.fails for finding in second.report(1).findings)
    assert len(begun(tmp_path)) == count


def test_failures_are_kept_until_they_are_to_be_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        swept(tmp_path, ["a", "greedy"])
    assert begun(tmp_path) == ["a-0", "greedy-0"]
    swept(tmp_path, ["a", "greedy"], again=True)
    assert begun(tmp_path) == ["a-0", "greedy-0", "greedy-0"]


@pytest.mark.parametrize("evidence", ["blurred", "none"])
def test_reasons_quote_no_samples_below_full_evidence(tmp_path: Path, evidence: str) -> None:
    full = swept(tmp_path, ["quoting", "defect"])
    assert "Mr Secret" in full.cells[0].reason
    hidden = swept(tmp_path, ["quoting", "defect"], replace(PLAIN, evidence=evidence))  # type: ignore[arg-type]
    assert [cell.reason for cell in hidden.cells] == [
        "The sample file does not hold samples that this model takes.",
        "internal error, a defect of leakaudit: KeyError",
    ]


def test_runners_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    for changes, message in (
        ({"limits": Limits(seconds=1)}, "--cell-time needs workers"),
        ({"limits": Limits(memory=1)}, "--cell-memory needs workers"),
        ({"workers": 2}, "workers is 2"),
        ({"address": "auto"}, "--address is of Ray"),
        ({"cards": 1.0}, "--gpus is of Ray"),
    ):
        with pytest.raises(UsageError, match=message):
            swept(tmp_path, ["a"], **changes)


def test_without_a_store_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    plan = plan_of(requests(tmp_path, ["a"]), tmp_path)
    sweep = run_sweep(plan, audit, Running(), PLAIN)
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    assert sweep.report(1).verdict.status
    del sweep
    assert list((tmp_path / "temporary").iterdir()) == []


def test_nothing_is_left_where_a_sweep_ends_by_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    plan = plan_of(requests(tmp_path, ["a"]), tmp_path)
    with pytest.raises(UsageError, match="workers is 2"):
        run_sweep(plan, audit, Running(workers=2), PLAIN)

    def defect(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, defect, Running(), PLAIN)  # type: ignore[arg-type]
    monkeypatch.setattr("leakaudit.sweeps.run.document_of", defect)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, audit, Running(), PLAIN)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_driver_of_many_cells_counts_them_as_they_come(tmp_path: Path) -> None:
    """Progress is one addition a cell: 20,000 results that are there take seconds, not the square of their number."""
    (job,) = jobs(tmp_path, ["a"])
    known = Result(key="", status=CellStatus.DONE)
    work = [replace(job, task=replace(job.task, key=f"{n:064x}")) for n in range(20_000)]

    class There:
        def finished(self) -> set[str]:
            return set()

        def claim(self, key: str) -> bool:
            return False

        def sound(self, key: str) -> Result:
            return replace(known, key=key)

    watcher, runner = Following(stop_after=30_000), Here(audit, SilentObserver(), Limits())
    began = time.process_time()
    assert len(drive(work, There(), runner, watcher)) == len(work)  # type: ignore[arg-type]
    assert time.process_time() - began < 10
    assert [progress.done for _, _, progress in watcher.cells] == list(range(1, len(work) + 1))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_model_that_is_a_pipe_is_a_row(tmp_path: Path) -> None:
    (request,) = requests(tmp_path, ["net"])
    (tmp_path / "net.onnx").unlink()
    os.mkfifo(tmp_path / "net.onnx")
    (cell,) = leakaudit.sweep([request], formats=("json",)).cells
    assert cell.status is CellStatus.FAILED
    assert "is a named pipe, expected a file" in cell.reason


def test_the_interface_takes_requests_and_refuses_none(tmp_path: Path) -> None:
    sweep = leakaudit.sweep(requests(tmp_path, ["broken"]), evidence="none", formats=("json",))
    assert sweep.cells[0].status is CellStatus.FAILED
    with pytest.raises(UsageError, match="no cell"):
        leakaudit.sweep([])
    with pytest.raises(UsageError, match="unknown report format word"):
        leakaudit.sweep(requests(tmp_path, ["broken"]), formats=("word",))


def test_a_lost_claim_does_not_stop_a_waiting_driver(tmp_path: Path) -> None:
    """Another driver holds the only cell, and then gives it up."""
    work = jobs(tmp_path, ["a"])
    other = Store(place_of(tmp_path / "store"))
    assert other.claim(work[0].task.key)
    threading.Timer(0.5, other.close).start()
    started = time.monotonic()
    assert driven(tmp_path, work)[0].status is CellStatus.DONE
    assert time.monotonic() - started > 0.4
