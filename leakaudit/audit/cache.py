"""The cache on disk: results that took long, found again by everything that they depend on.

An entry's name is the hash of what it was made from, so a changed input is another entry and nothing ever has to be
invalidated. Entries may hold private images: the folder is for its owner only (0700, files 0600), a value is written
beside its final name and renamed, and what nobody read for two weeks is removed. An entry that does not load is
treated as absent.

``$LEAKAUDIT_CACHE_DIR`` names another folder than ``~/.cache/leakaudit``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import os
import pickle
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakaudit.errors import UsageError

KEPT_SECONDS = 14 * 24 * 3600.0


def cache_directory() -> Path:
    """Where entries are kept; need not exist."""
    if own := os.environ.get("LEAKAUDIT_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "leakaudit"


class Cache:
    """Values on disk by key. A value is made of tensors, numbers, text, lists, tuples and dictionaries of these.

    Args:
        directory: Created when the first value is stored; default :func:`cache_directory`.

    Raises:
        UsageError: The folder cannot be written (when a value is stored).
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = cache_directory() if directory is None else directory

    def get(self, key: str) -> Any:
        """The value of a key, or ``None``: absent, damaged, or written by something that is no longer readable."""
        path = self._path(key)
        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
            os.utime(path)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            return None
        return value

    def put(self, key: str, value: Any) -> None:
        """Store a value; a killed process leaves either all of it or nothing under its name."""
        path = self._path(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            descriptor, unfinished = tempfile.mkstemp(prefix=".", dir=path.parent)  # made with 0600
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    torch.save(value, stream)
                os.replace(unfinished, path)
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"cannot write the cache in {self.directory}: {reason}", "set LEAKAUDIT_CACHE_DIR, or pass --no-cache"
            ) from error

    def remove_old(self, seconds: float = KEPT_SECONDS) -> int:
        """Remove entries, and rests of killed writers, that nobody read for this long; how many."""
        limit, removed = time.time() - seconds, 0
        for path in self.directory.glob("??/*"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
            except OSError:  # another process was faster
                continue
        return removed

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key[2:]


class NotHashable(TypeError):
    """A value without a content that could be hashed, such as a closure; its result must not be cached."""


def digest(*parts: Any) -> str:
    """A hash of the content of values: tensors, arrays' names, dataclasses, mappings, sequences, text and numbers.

    Functions count by their qualified name, those of other packages also by the file that they stand in, bound methods
    and partial functions by what they are bound to.

    Raises:
        NotHashable: A part has no content to hash.
    """
    state = hashlib.sha256()
    for piece in _pieces(list(parts)):
        state.update(len(piece).to_bytes(8, "little"))
        state.update(piece)
    return state.hexdigest()


def _pieces(value: Any) -> Iterable[bytes]:
    """The value as bytes; the type first, so that 1, "1" and (1,) differ."""
    yield type(value).__qualname__.encode()
    if value is None or isinstance(value, bool | int | float | str | bytes | Path | torch.dtype | torch.device):
        yield value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"{plain.dtype} {tuple(plain.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _pieces([(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)])
    elif isinstance(value, Mapping):
        yield from _pieces([(key, value[key]) for key in sorted(value, key=repr)])
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield from _callable_pieces(value)


def _callable_pieces(value: Any) -> Iterable[bytes]:
    if isinstance(value, functools.partial):
        yield from _pieces([value.func, value.args, dict(value.keywords)])
    elif inspect.ismethod(value):
        yield from _pieces([value.__func__.__qualname__, value.__self__])
    elif inspect.isfunction(value) and value.__closure__ is None and "<lambda>" not in value.__qualname__:
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if value.__module__.partition(".")[0] != __package__.partition(".")[0]:  # this one's code has a digest
            yield _source(value)
    else:
        raise NotHashable(f"{type(value).__qualname__} has no content to hash")


def _source(function: Any) -> bytes:
    try:
        return Path(inspect.getfile(function)).read_bytes()
    except (OSError, TypeError) as error:
        raise NotHashable(f"{function.__qualname__} has no source file") from error


@functools.cache
def code_digest() -> str:
    """A hash of the package's source: results of another version of the code are never taken for this one's."""
    package = Path(__file__).parents[1]
    return digest([(str(p.relative_to(package)), p.read_bytes()) for p in sorted(package.rglob("*.py"))])
