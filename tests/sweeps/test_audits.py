"""Audits that belong together: each outcome is told once, errors stay what they are, and a store goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from leakaudit.audit.request import Request
from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError, BatchError, ModelError, UsageError
from leakaudit.observer import Observer, SilentObserver
from leakaudit.policy.read import Policy
from leakaudit.report.saving import Report
from leakaudit.sweeps import audits as module
from leakaudit.sweeps.audits import UNJUDGED, Audits, Outcome
from leakaudit.sweeps.cells import Task, error_of, run_cell
from leakaudit.sweeps.engine import jobs_of
from leakaudit.sweeps.grid import plan_of
from leakaudit.sweeps.run import Running
from tests.sweeps.build import audit, begun, requests


class Stopping(SilentObserver):
    """Asks to stop once so many audits have begun, and notes what it is told."""

    def __init__(self, after: int = 1000) -> None:
        self.after = after
        self.stages: list[str] = []

    def stage(self, message: str) -> None:
        self.stages.append(message)

    def interrupted(self) -> bool:
        return len(self.stages) >= self.after


def ran(
    work: Sequence[Request], observer: Observer | None = None, store: Path | None = None, fatal: type = AssertionError
) -> dict[int, Outcome]:
    found: dict[int, Outcome] = {}

    def ended(number: int, outcome: Outcome) -> None:
        assert number not in found
        if isinstance(outcome, fatal):
            raise outcome
        found[number] = outcome

    with Audits(audit, observer or SilentObserver(), store=store) as audits:
        audits.run(work, [Path(str(one.model)).stem for one in work], ended)
    return found


def test_reports_and_errors_come_back_as_they_are(tmp_path: Path) -> None:
    observer = Stopping()
    found = ran(requests(tmp_path, ["a", "broken", "defect"]), observer)
    assert isinstance(found[0], Report)
    assert found[0].target.name == "a"
    assert not any(finding.fails for finding in found[0].findings), "nobody has judged it"
    assert isinstance(found[1], ModelError)
    assert found[1].__traceback__ is not None
    assert found[1].hint == "export it again"
    assert isinstance(found[2], KeyError)
    assert observer.stages == ["a", "broken", "defect"]


def test_what_is_no_outcome_ends_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        ran(requests(tmp_path, ["a", "defect", "b"]), fatal=KeyError)
    assert begun(tmp_path) == ["a-0", "defect-0"]


def test_an_interrupted_audit_leaves_what_it_has(tmp_path: Path) -> None:
    found = ran(requests(tmp_path, ["a", "b", "c"]), Stopping(after=2))
    assert isinstance(found[0], Report)
    assert isinstance(found[1], Report)
    assert (found[0].partial, found[1].partial) == ("", "interrupted by the user")
    assert found[2] is None


def test_a_store_goes_on_and_tries_failures_again(tmp_path: Path) -> None:
    work = requests(tmp_path, ["a", "broken", "b"])
    partial = ran(work, Stopping(after=3), tmp_path / "store")
    assert partial[2] is not None
    whole = ran(work, None, tmp_path / "store")
    assert begun(tmp_path) == ["a-0", "b-0", "b-0", "broken-0", "broken-0"]
    assert [type(outcome) for outcome in whole.values()] == [ModelError, Report, Report]
    again = ran(work, None, tmp_path / "store")
    assert again[0] == whole[0] == partial[0]
    assert begun(tmp_path).count("a-0") == 1


def test_a_sweep_does_not_take_what_nobody_judged(tmp_path: Path) -> None:
    plan = plan_of(requests(tmp_path, ["a"]), tmp_path)
    judged, unjudged = (jobs_of(plan, shown)[0].task.key for shown in (replace(UNJUDGED, policy=Policy()), UNJUDGED))
    assert judged != unjudged


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_in_memory_stays_in_this_process(tmp_path: Path, kept: bool) -> None:
    (request,) = requests(tmp_path, ["a"])
    for lacking in (replace(request, model=None), replace(request, batch=None)):
        running = None if kept else Running(runner="processes", workers=1)
        with (
            pytest.raises(UsageError, match="need the model and the samples as files"),
            Audits(audit, SilentObserver(), running, tmp_path / "store" if kept else None) as audits,
        ):
            audits.run([lacking], ["x"], lambda *_: None)
    assert begun(tmp_path) == []


def test_an_error_of_another_process_is_made_again(tmp_path: Path) -> None:
    work = requests(tmp_path, ["broken", "quoting", "greedy"])
    results = [run_cell(Task(key="k", request=one, shown=UNJUDGED), audit) for one in work]
    model, batch, memory = map(error_of, results)
    assert (type(model), model.message, model.hint) == (
        ModelError,
        "not a model that torch could read",
        "export it again",
    )
    assert (type(batch), batch.message) == (BatchError, "row 3 holds 'Mr Secret'")
    assert batch.discreet == "The sample file does not hold samples that this model takes."
    assert (type(memory), results[2].status) == (AuditError, CellStatus.MEMORY)
    hidden = replace(UNJUDGED, evidence="none")
    assert "Mr Secret" not in repr(run_cell(Task(key="k", request=work[1], shown=hidden), audit))


def test_a_runner_that_cannot_be_made_leaves_no_heart_beating(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    honest = module.Store.close
    monkeypatch.setattr(module.Store, "close", lambda self: (closed.append(self), honest(self))[1])
    with pytest.raises(UsageError, match="workers is 2"):
        Audits(audit, SilentObserver(), Running(workers=2))
    assert len(closed) == 1
