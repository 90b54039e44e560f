"""Cells as tasks of Ray, on this machine or on a cluster: ``pip install leakaudit[ray]``.

Every file that cells name goes into Ray's object store once; a cell unpacks what it needs into a folder for its user
only, which goes with it, and reports name the files as the sweep does. A task declares its cores, memory and share of a
graphics card, and is begun again where its worker is lost. A cluster of our own listens on this machine only, and has
no dashboard, whose port would run whatever it is sent. Task names are hashes, results are values and no exceptions, and
what workers print stays on their machines, so Ray logs nothing of a sample.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakaudit.audit.request import Request
from leakaudit.document.paths import with_texts
from leakaudit.document.status import CellStatus
from leakaudit.errors import LeakauditError, UsageError
from leakaudit.observer import Observer
from leakaudit.safety.files import ordinary
from leakaudit.sweeps.cells import Audit, Task, failed, run_cell
from leakaudit.sweeps.contents import files_below, named_files, relocated
from leakaudit.sweeps.results import Result, unpack
from leakaudit.sweeps.runners.base import Limits, lost
from leakaudit.sweeps.runners.processes import GIB

if TYPE_CHECKING:
    from leakaudit.report.saving import Report

OWN_CLUSTER = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
_FOLDER = "leakaudit-ray-"


@dataclass(frozen=True)
class Parcel:
    """A file or folder as it travels.

    Args:
        path: As the request has it.
        names: Of its files, below the folder that it lies in.
        contents: Of these, as references into Ray's object store, or as bytes where they have arrived.
    """

    path: str
    names: tuple[str, ...]
    contents: tuple[Any, ...]


class OnRay:
    """A runner of Ray tasks.

    Args:
        audit: Does a cell; importable by its name on every machine.
        workers: Cells at a time; default as many as the cluster has cores for.
        threads: Cores of each.
        limits: What a cell may take; its memory is declared to Ray.
        address: Of a cluster, as ``auto`` or ``ray://head:10001``; by default one is started on this machine.
        cards: Graphics cards of each, or a part of one.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """

    def __init__(
        self,
        audit: Audit,
        workers: int | None = None,
        threads: int | None = None,
        limits: Limits | None = None,
        address: str | None = None,
        cards: float | None = None,
    ) -> None:
        self._ray = _connected(address, workers, threads)
        self._own, self._limits, self.threads = address is None, limits or Limits(), threads or 1
        resources = self._ray.cluster_resources()
        gpus = cards if cards is not None else min(1.0, resources.get("GPU", 0.0))
        self.slots = workers or _room(resources, self.threads, gpus)
        memory = {} if self._limits.memory is None else {"memory": int(self._limits.memory * GIB)}
        options = {"num_cpus": self.threads, "num_gpus": gpus, "max_retries": self._limits.retries, **memory}
        self._function = self._ray.remote(**options, retry_exceptions=False)(_remote)
        self._audit = self._ray.put(audit)
        self._parcels: dict[tuple[str, Path], Parcel] = {}
        self._running: dict[Any, tuple[Task, float | None]] = {}
        self._refused: list[Result] = []
        self._clock = self._ray.remote(num_cpus=0)(_Begun).remote() if self._limits.seconds is not None else None
        self._begun: dict[str, int] = {}

    def submit(self, task: Task) -> None:
        """See :class:`leakaudit.sweeps.runners.base.Runner`."""
        task = replace(task, request=_beneath(task)) if task.shown.paths == "short" else task
        try:
            parcels = self._packed(task.request)
        except LeakauditError as error:
            self._refused.append(failed(task, error))
            return
        contents = [reference for parcel in parcels for reference in parcel.contents]
        bare = [replace(parcel, contents=()) for parcel in parcels]
        call = self._function.options(name=f"cell {task.key[:12]}")
        reference = call.remote(self._audit, task, bare, self.threads, self._clock, *contents)
        self._running[reference] = (task, None)

    def finished(self, seconds: float) -> list[Result]:
        """See :class:`leakaudit.sweeps.runners.base.Runner`."""
        if self._refused:
            refused, self._refused = self._refused, []
            return refused
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds, fetch_local=False)
        results = [self._received(reference) for reference in ready]
        if self._clock is None:
            return results
        self._look()
        return [*results, *filter(None, map(self._over, list(self._running)))]

    def close(self) -> None:
        """See :class:`leakaudit.sweeps.runners.base.Runner`."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()
        if self._own:
            _remove_abandoned(Path(tempfile.gettempdir()))

    def _received(self, reference: Any) -> Result:
        task, _ = self._running.pop(reference)
        try:
            return unpack(self._ray.get(reference))
        except self._ray.exceptions.OutOfMemoryError:
            return Result(key=task.key, status=CellStatus.MEMORY, reason="Ray ended it for the memory that it held")
        except self._ray.exceptions.RayError as error:
            times = self._limits.retries + 1
            return lost(task.key, f"its worker was lost, {times} times ({type(error).__name__})")

    def _look(self) -> None:
        """See which cells have begun, or begun again: their time counts from now."""
        assert self._clock is not None
        begun = self._ray.get(self._clock.all.remote())
        for reference, (task, _) in self._running.items():
            if begun.get(task.key, 0) != self._begun.get(task.key, 0):
                self._begun[task.key] = begun[task.key]
                self._running[reference] = (task, time.monotonic())

    def _over(self, reference: Any) -> Result | None:
        """The result of a cell that is over its time, whose worker is ended."""
        task, since = self._running[reference]
        limit = self._limits.seconds
        if limit is None or since is None or (used := time.monotonic() - since) <= limit:
            return None
        self._running.pop(reference)
        self._ray.cancel(reference, force=True)
        return Result(
            key=task.key, status=CellStatus.TIME, reason=f"ended after {limit:g} s, its --cell-time", seconds=used
        )

    def _packed(self, request: Request) -> list[Parcel]:
        """The files of a request, each put into the object store when it is first needed."""
        found = []
        for name, paths in named_files(request).items():
            kind = "model" if name in ("model", "checkpoints") else ""
            for path in paths:
                if (kind, path) not in self._parcels:
                    self._parcels[kind, path] = self._put(path, kind)
                found.append(self._parcels[kind, path])
        return found

    def _put(self, path: Path, kind: str) -> Parcel:
        """A file or folder in the object store.

        Raises:
            UsageError: It is a pipe or a device, or cannot be read.
        """
        if not path.exists():
            return Parcel(str(path), (), ())
        try:
            files = [ordinary(file) for file in files_below(path, model=kind == "model")]
            contents = tuple(self._ray.put(file.read_bytes()) for file in files)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", "see who may read it") from error
        return Parcel(str(path), tuple(os.path.relpath(file, path.parent) for file in files), contents)


def _room(resources: Mapping[str, float], threads: int, cards: float) -> int:
    """Cells that a cluster has room for."""
    rooms = [resources.get("CPU", 1.0) // threads]
    rooms += [resources.get("GPU", 0.0) // cards] if cards else []
    return max(1, int(min(rooms)))


def _beneath(task: Task) -> Request:
    """The request with paths below the working folder relative to it: that of a worker is another one."""
    here = Path.cwd()
    paths = [path for paths in named_files(task.request).values() for path in paths]
    return relocated(task.request, {path: path.relative_to(here) for path in paths if path.is_relative_to(here)})


def _connected(address: str | None, workers: int | None, threads: int | None) -> Any:
    """Ray, connected to a cluster.

    Raises:
        UsageError: It is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--runner ray needs Ray, which is not installed", "pip install leakaudit[ray]") from error
    if address is None:
        own = {**OWN_CLUSTER, "num_cpus": None if workers is None else workers * (threads or 1)}
    else:
        own = {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"no Ray cluster at {address or 'this machine'}: {reason}", "see ray start --help") from error
    return ray


# In a worker


class _Begun:
    """An actor that knows which cells have begun: that a task was handed in says nothing of that."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def begins(self, key: str) -> None:
        """A cell begins, perhaps not for the first time."""
        self._times[key] = self._times.get(key, 0) + 1

    def all(self) -> dict[str, int]:
        """How often each has begun."""
        return self._times


def _remote(audit: Audit, task: Task, parcels: Sequence[Parcel], threads: int, clock: Any, *contents: bytes) -> bytes:
    """Audit a cell on whichever machine this is; the result as an archive."""
    import torch

    torch.set_num_threads(threads)
    if clock is not None:
        clock.begins.remote(task.key)
    arrived = iter(contents)
    whole = [replace(parcel, contents=tuple(next(arrived) for _ in parcel.names)) for parcel in parcels]
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-") as folder:
        places = {Path(parcel.path): unpacked(parcel, Path(folder) / str(n)) for n, parcel in enumerate(whole)}
        return run_cell(task, Elsewhere(audit, places)).pack()


def unpacked(parcel: Parcel, folder: Path) -> Path:
    """Where a file or folder lies now: in this new folder, under its own name."""
    folder.mkdir(mode=0o700)
    for name, content in zip(parcel.names, parcel.contents, strict=True):
        file = folder / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder / Path(parcel.path).name


def _remove_abandoned(folder: Path) -> None:
    """Remove what workers of this user left that were killed; samples do not stay on a machine."""
    import psutil

    for left in folder.glob(f"{_FOLDER}*"):
        number = left.name.removeprefix(_FOLDER).partition("-")[0]
        own = not hasattr(os, "geteuid") or left.lstat().st_uid == os.geteuid()
        if own and number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class Elsewhere:
    """An audit of files that lie elsewhere than the request says; its report and its errors name them as that does.

    Args:
        audit: Does it.
        places: Where each path of the request lies.
    """

    audit: Audit
    places: Mapping[Path, Path]

    def __call__(self, request: Request, observer: Observer) -> Report:
        """The report of a request."""
        try:
            report = self.audit(relocated(request, self.places), observer=observer)
        except LeakauditError as error:
            error.message = self._named(error.message)
            raise
        return with_texts(report, self._named)

    def _named(self, text: str) -> str:
        for path, place in self.places.items():
            text = text.replace(str(place), str(path))
        return text
