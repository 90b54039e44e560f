"""Cells whose audit is told by the name of their model file, so that the engine is tried without torch's hours."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from leakaudit.audit.request import Request
from leakaudit.document.status import VerdictStatus
from leakaudit.errors import BatchError, ModelError
from leakaudit.observer import Observer
from leakaudit.report.saving import Report
from leakaudit.sweeps.cells import Presentation
from leakaudit.sweeps.engine import Job, jobs_of
from leakaudit.sweeps.grid import plan_of

PLAIN = Presentation(formats=("json",))
RAN = "ran"


def audit(request: Request, observer: Observer) -> Report:
    """What a model's name says, with a note of every cell that was begun beside the batch."""
    assert request.batch is not None
    assert request.model is not None
    place = Path(request.batch).parent / RAN
    place.mkdir(exist_ok=True)
    name = Path(request.model).stem
    before = len(list(place.glob(f"{name}-{request.seed}-*")))
    (place / f"{name}-{request.seed}-{secrets.token_hex(4)}").touch()
    _misbehave(name, before)
    if observer.interrupted():
        return whole(Path(request.batch)).model_copy(update={"partial": "interrupted by the user"})
    return report_of(request)


def _misbehave(name: str, before: int) -> None:
    if name.startswith("broken"):
        raise ModelError("not a model that torch could read", "export it again")
    if name.startswith("quoting"):
        raise BatchError("row 3 holds 'Mr Secret'")
    if name.startswith("defect"):
        raise KeyError("secret value")
    if name.startswith("greedy"):
        raise MemoryError
    if name.startswith("hog"):
        held = b"x" * (1600 << 20)
        time.sleep(60 + held.count(b"y"))
    if name.startswith("slow"):
        time.sleep(600)
    if name.startswith("long"):
        time.sleep(0.4)
    if name.startswith("steady"):
        time.sleep(1.5)
    if name.startswith("killer") or (name.startswith("once") and not before):
        os.kill(os.getpid(), signal.SIGKILL)


@cache
def whole(batch: Path) -> Report:
    """A report to be changed, which workers need not make: it stands in the place of the samples."""
    return Report.load(batch)


@cache
def _made() -> str:
    from tests.report.builder import build

    return build(victims=1, runs=1, side=8).to_json()


def report_of(request: Request) -> Report:
    """A report that depends on the request alone; models whose name begins with "tight" leak nothing."""
    report = whole(Path(str(request.batch)))
    target = report.target.model_copy(update={"path": str(request.model), "name": Path(str(request.model)).stem})
    tight = target.name.startswith("tight")
    leaked = {"samples_leaked": 0 if tight else 1 + request.seed % 2, "samples_attacked": 4}
    if tight:
        leaked |= {"code": VerdictStatus.NOT_SHOWN, "severity": "none"}
    changes = {"seed": request.seed, "target": target, "verdict": report.verdict.model_copy(update=leaked)}
    return report.model_copy(update={**changes, **({"findings": []} if tight else {})})


def requests(folder: Path, names: Iterable[str], seeds: Iterable[int] = (0,)) -> list[Request]:
    """One request for each model and seed; the files are made."""
    (folder / "batch.npz").write_text(_made())
    found = []
    for name in names:
        (folder / f"{name}.onnx").write_bytes(name.encode())
        found += [Request(model=folder / f"{name}.onnx", batch=folder / "batch.npz", seed=seed) for seed in seeds]
    return found


def jobs(folder: Path, names: Iterable[str], seeds: Iterable[int] = (0,), shown: Presentation = PLAIN) -> list[Job]:
    """The same as jobs."""
    return jobs_of(plan_of(requests(folder, names, seeds), folder), shown)


def begun(folder: Path) -> list[str]:
    """The cells that were begun, as model and seed, once for every time."""
    return sorted(path.name.rpartition("-")[0] for path in (folder / RAN).glob("*"))
