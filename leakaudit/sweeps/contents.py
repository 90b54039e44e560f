"""The name of a cell's result: a hash of its request, of what the files that it names hold, and of the code.

`leakaudit.Request.key` hashes names of files, which is enough within one audit. A sweep's store outlives the files, and
serves several machines, so here the contents count, and paths only as they are written in the sweep.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from leakaudit.audit.kinds import File, Files
from leakaudit.audit.parameters import parameters
from leakaudit.audit.request import Request
from leakaudit.errors import LeakauditError, UsageError
from leakaudit.safety.files import ordinary

ABSENT = "absent"
"""In place of the hash of a file that is not there, or that cannot be read: the cell will say why."""
PERMISSIONS = ("trust", "unsafe_pickle")
"""What a request permits decides no number of a report, and whether there is one."""
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")
_GROUPS = ("leakaudit.attacks", "leakaudit.defences", "leakaudit.domains", "leakaudit.readers")
"""Entry points that decide results; formats do not."""


def named_files(request: Request) -> dict[str, tuple[Path, ...]]:
    """The files and folders that a request names, by parameter; those that it does not name are left out."""
    found: dict[str, tuple[Path, ...]] = {}
    for name, parameter in parameters(type(request)).items():
        value = getattr(request, name, None) if isinstance(parameter.kind, File | Files) else None
        if value:
            found[name] = tuple(map(Path, value)) if isinstance(parameter.kind, Files) else (Path(value),)
    return found


def relocated(request: Request, places: Mapping[Path, Path]) -> Request:
    """The request with other paths in the place of some."""
    changes: dict[str, Any] = {}
    for name, paths in named_files(request).items():
        moved = tuple(places.get(path, path) for path in paths)
        several = isinstance(parameters(type(request))[name].kind, Files)
        changes[name] = moved if several else moved[0]
    return replace(request, **changes)


def files_below(path: Path, *, model: bool = False) -> list[Path]:
    """All files that are read for a path: itself, those of a folder, or the external data of an ONNX file."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not model:
        return [path]
    from leakaudit.target.hashing import model_files

    try:
        return model_files(path)
    except LeakauditError:
        return [path]


@dataclass(eq=False)
class Contents:
    """Hashes of files, each read once.

    Args:
        base: Folder that paths are told relative to.
    """

    base: Path
    known: dict[tuple[str, Path], str] = field(default_factory=dict)

    def key(self, request: Request, *more: Any) -> str:
        """The hash of a request with all that its result depends on.

        Args:
            request: Of a cell.
            more: What else decides what is stored.
        """
        from leakaudit.audit.cache import digest

        named = named_files(request)
        hashes = [(name, [self.of(path, model=name in ("model", "checkpoints")) for path in paths])
                  for name, paths in named.items()]  # fmt: skip
        places = {path: self._told(path) for paths in named.values() for path in paths}
        functions = [(place, self.of(place)) for place in _sources(request)]
        permitted = [getattr(request, name) for name in PERMISSIONS]
        return digest(self.program, relocated(request, places).key(), permitted, hashes, functions, list(more))

    @cached_property
    def program(self) -> list[Any]:
        """What runs: this package's source, torch, and packages that extend this one."""
        import torch

        from leakaudit.audit.cache import code_digest

        points = [point for group in _GROUPS for point in entry_points(group=group)]
        extensions = sorted((p.group, p.name, p.value, str(p.dist.version if p.dist else "")) for p in points)
        return [code_digest(), torch.__version__, extensions]

    def of(self, path: Path, *, model: bool = False) -> str:
        """The hash of a file or folder."""
        found = self.known.get(("model" if model else "", path))
        if found is None:
            found = self.known["model" if model else "", path] = _hashed(path, model)
        return found

    def _told(self, path: Path) -> Path:
        """A path as the sweep has it."""
        return path.relative_to(self.base) if path.is_relative_to(self.base) else path


def _hashed(path: Path, model: bool) -> str:
    state = hashlib.sha256()
    try:
        for file in files_below(path, model=model):
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            state.update(f"{len(name)} {name} {file.stat().st_size} ".encode("utf-8", "surrogatepass"))
            with ordinary(file).open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    state.update(chunk)
    except (OSError, UsageError):  # a pipe or a device is read by nobody
        return ABSENT
    return state.hexdigest()


def _sources(request: Request) -> Iterator[Path]:
    """Files of the current folder that a request names functions of, as ``module:function``."""
    for text in (
        request.factory or "",
        request.loss or "",
        request.generator or "",
        *request.defences,
        *request.claims,
    ):
        for match in _FUNCTION.finditer(text):
            place = Path(*match[1].split(".")).with_suffix(".py")
            if place.is_file():
                yield place
