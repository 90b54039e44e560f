"""The Python interface: `scan` a model and a batch, get a Report; `sweep` many, get a table of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from torch import nn

from leakaudit.audit.cache import Cache
from leakaudit.audit.intake import Model, read_case, read_model, refuse_settings
from leakaudit.audit.keywords import request_of, whole_signature
from leakaudit.audit.memory import Memory
from leakaudit.audit.pipeline import audit, planned
from leakaudit.audit.plan import Plan
from leakaudit.audit.request import Request
from leakaudit.audit.round_settings import told_beside, with_round
from leakaudit.client.readers.base import Source
from leakaudit.errors import UsageError
from leakaudit.observer import Observer, SilentObserver
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy
from leakaudit.protocols.base import Mode
from leakaudit.report.saving import Report
from leakaudit.safety.text import encodable
from leakaudit.sweeps.audits import Audits
from leakaudit.sweeps.cells import FORMATS, Evidence, Presentation
from leakaudit.sweeps.defend import defend as measure_defences
from leakaudit.sweeps.engine import Watcher
from leakaudit.sweeps.grid import plan_of, read_plan
from leakaudit.sweeps.outcome import SweepReport
from leakaudit.sweeps.request import DefendRequest
from leakaudit.sweeps.run import Running, Where, run_sweep
from leakaudit.sweeps.runners.base import RETRIES, Limits
from leakaudit.sweeps.variants import Variant, audit_variants, name_variants
from leakaudit.target import Target

P = ParamSpec("P")
Taking = TypeVar("Taking", bound=Callable[..., Report])


class Asking(Protocol[P]):
    """A function of a model, samples, and the fields of a request as keywords."""

    def __call__(
        self,
        model: Model | Request | None,
        batch: Source | None = None,
        observer: Observer | None = None,
        running: Running | None = None,
        store: str | Path | None = None,
        *args: P.args,
        **keywords: P.kwargs,
    ) -> Report:
        """Build the request, and do what it asks for."""


def keywords_of(kind: Callable[P, Request]) -> Callable[[Taking], Asking[P]]:
    """A decorator: the function's ``**keywords`` are the fields of this request, for help() and type checkers."""

    def decorate(function: Taking) -> Asking[P]:
        signed: Any = function
        signed.__signature__ = whole_signature(function, cast(type[Request], kind))
        return cast(Asking[P], function)

    return decorate


@keywords_of(Request)
def scan(
    model: Model | Request | None,
    batch: Source | None = None,
    observer: Observer | None = None,
    running: Running | None = None,
    store: str | Path | None = None,
    **keywords: Any,
) -> Report:
    """Audit what one shared update of a model gives away about a batch. Prints nothing.

    Findings are judged by the default policy (high and above fail); `leakaudit.policy.apply.apply_policy` applies
    another.

    Args:
        model: Model file, ``torch.nn.Module`` or Target; or a `leakaudit.Request` that names files. ``None`` where
            ``checkpoints`` are all there is.
        batch: ``.npz`` file, folder of images, ``(inputs, labels)`` arrays, or Batch; token ids are integers (N, L).
        observer: Told the progress.
        running: Where checkpoints and modes are audited, which is in this process one after the other by default.
        store: Folder or fsspec URL that keeps their reports, so that a killed scan goes on where it was.
        **keywords: Fields of `leakaudit.Request`, as ``batch_size=4``.

    Raises:
        UsageError: A keyword or a value that cannot be.
        ModelError: A model that cannot be audited.
        BatchError: Samples that do not fit the model.
    """
    request, in_memory, observer = _asked(model, batch, observer, keywords)
    variants = _variants(request, in_memory)
    memory = Memory(Cache() if request.cache else None)

    def audit_one(one: Request, observer: Observer) -> Report:
        started = time.monotonic()  # a time budget counts the reading, too
        case = read_case(one, read_model(one, in_memory), batch, observer)
        return audit(case.target, case.samples, one, observer=observer, memory=memory, started=started)

    if len(variants) == 1 and running is None and store is None:
        observer.stage("loading the model")
        report = audit_one(variants[0].request, observer)
    elif len(variants) > 1 and request.recorded:
        raise UsageError(
            "a recorded update is of one model in one mode", "scan the variants without --update and --round"
        )
    else:
        with Audits(audit_one, observer, running, store) as audits:
            report = audit_variants(variants, audits)
    return _judged(report, request.command())


def plans(
    model: Model | Request | None, batch: Source | None = None, observer: Observer | None = None, **keywords: Any
) -> list[Plan]:
    """What :func:`scan` would do and how long that would take, of each checkpoint and mode; attacks and writes nothing.

    Args:
        model: As for :func:`scan`.
        batch: As for :func:`scan`.
        observer: Told the progress.
        **keywords: Fields of `leakaudit.Request`.

    Raises:
        UsageError: A keyword or a value that cannot be.
        ModelError: A model that cannot be audited.
        BatchError: Samples that do not fit the model.
    """
    request, in_memory, observer = _asked(model, batch, observer, keywords)
    found: list[Plan] = []
    for variant in (variants := _variants(request, in_memory)):
        if found and observer.interrupted():
            break
        started = time.monotonic()
        observer.stage("loading the model")
        case = read_case(variant.request, read_model(variant.request, in_memory), batch, observer)
        plan = planned(case.target, case.samples, variant.request, observer=observer, started=started)
        found.append(replace(plan, label=variant.label if len(variants) > 1 else ""))
    return found


def _asked(
    model: Model | Request | None, batch: Source | None, observer: Observer | None, keywords: dict[str, Any]
) -> tuple[Request, nn.Module | Target | None, Observer]:
    """The request of a scan, the model where it is in memory, and who is told."""
    if not isinstance(model, Request):
        keywords = {**keywords, **told_beside(keywords)}
    request = with_round(request_of(Request, model, batch, keywords))
    refuse_settings(request)
    return request, model if isinstance(model, nn.Module | Target) else None, observer or SilentObserver()


@keywords_of(DefendRequest)
def defend(
    model: Model | Request | None,
    batch: Source | None = None,
    observer: Observer | None = None,
    running: Running | None = None,
    store: str | Path | None = None,
    **keywords: Any,
) -> Report:
    """Attack and train with every setting of a grid of defences, and name the cheapest that meets a goal.

    Args:
        model: As for :func:`scan`; or a `leakaudit.DefendRequest` that names files.
        batch: As for :func:`scan`.
        observer: Told the progress.
        running: Where settings are attacked, which is in this process one after the other by default.
        store: Folder or fsspec URL that keeps the reports of all, so that a killed run goes on where it was.
        **keywords: Fields of `leakaudit.DefendRequest`, as ``goal="PSNR<15"``; ``utility_data`` may also be in memory.

    Raises:
        UsageError: A keyword or a value that cannot be.
        ModelError: A model that cannot be audited.
        BatchError: Samples that do not fit the model.
    """
    own = keywords.pop("utility_data") if not isinstance(keywords.get("utility_data", ""), str | Path) else None
    request = request_of(DefendRequest, model, batch, keywords)
    refuse_settings(request)
    observer = observer or SilentObserver()
    observer.stage("loading the model")
    target = read_model(request, None if isinstance(model, Request) else model)
    case = read_case(request, target, batch, observer)
    data = request.utility_data if own is None else own
    utility = None if data is None else case.reader.read(data)
    report = measure_defences(
        *(case.target, case.samples, request), utility=utility, observer=observer, running=running, store=store
    )
    return _judged(report, request.command() if own is None else [])


def sweep(
    plan: str | Path | Sequence[Request],
    *,
    runner: Where = "here",
    workers: int | None = None,
    threads: int | None = None,
    store: str | Path | None = None,
    formats: Sequence[str] = FORMATS,
    evidence: Evidence = "full",
    policy: Policy | None = None,
    cell_time: float | None = None,
    cell_memory: float | None = None,
    retries: int = RETRIES,
    retry_failed: bool = False,
    address: str | None = None,
    gpus: float | None = None,
    watcher: Watcher | None = None,
) -> SweepReport:
    """Audit every cell of a sweep. Prints nothing.

    Results are kept in the store under a hash of all that they depend on, so what it has is not done again, and several
    sweeps on one store share the work. A cell that cannot be audited is a row with the reason.

    Args:
        plan: TOML file (see the page on sweeps), or `leakaudit.Request` values that name files.
        runner: ``here`` runs one cell after the other in this process, ``processes`` in several of this machine (a
            script then guards its main part by ``if __name__ == "__main__"``), ``ray`` as tasks of Ray.
        workers: Cells at a time; default one for each core.
        threads: Cores of each; default the cores divided by the workers.
        store: Folder or fsspec URL of the results; by default a temporary folder, which goes with what is returned.
        formats: Of each cell's report.
        evidence: What reports show of private samples: ``full``, ``blurred`` or ``none``.
        policy: Judges the findings of every cell; by default high and above fail.
        cell_time: Seconds after which a cell is ended.
        cell_memory: GiB beyond which it is ended.
        retries: Times that a cell is begun again after its worker died.
        retry_failed: Try cells again of which the store knows why they have no report.
        address: Of a Ray cluster; by default one is started on this machine.
        gpus: Graphics cards of each cell on Ray, or a part of one.
        watcher: Told the progress.

    Raises:
        UsageError: A file, a runner or a store that cannot be used.
    """
    cells = read_plan(Path(plan)) if isinstance(plan, str | Path) else plan_of(plan, Path())
    running = Running(
        runner=runner,
        workers=workers,
        threads=threads,
        address=address,
        cards=gpus,
        limits=Limits(seconds=cell_time, memory=cell_memory, retries=retries),
        again=retry_failed,
    )
    shown = Presentation(formats=tuple(formats), evidence=evidence, policy=policy or Policy())
    return run_sweep(cells, scan, running, shown, store, watcher)


def _judged(report: Report, command: list[str]) -> Report:
    """By the default policy, and with the words that reproduce it."""
    return apply_policy(report.model_copy(update={"command": encodable(command)}), Policy())


def _variants(request: Request, in_memory: nn.Module | Target | None) -> list[Variant]:
    """What is to be audited, each as a request of its own with its share of the time.

    Raises:
        UsageError: Several variants of what is already in memory.
    """
    named: list[tuple[str, Path | None, Mode | None]] = []
    if in_memory is None and request.files:
        named += name_variants(request.files, request.modes)
    elif request.checkpoints:
        raise UsageError("checkpoints need the model as a file, not in memory", "give the path of each")
    elif isinstance(in_memory, Target):
        if request.both_modes:
            raise UsageError("mode 'both' needs a model file or a module; a Target has its mode")
        named = [(in_memory.name, None, None)]
    else:
        named = [(f"{mode} mode", None, mode) for mode in request.modes]
    share = None if request.time_budget is None else request.time_budget / len(named)
    one = replace(request, checkpoints=(), time_budget=share)
    return [Variant(label, replace(one, model=path, mode=mode)) for label, path, mode in named]
