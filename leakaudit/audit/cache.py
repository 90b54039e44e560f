"""The cache on disk: results that took long, found again by everything that they depend on.

An entry's name is the hash of what it was made from, so a changed input is another entry and nothing ever has to be
invalidated. Entries may hold private images: they lie in ``leakaudit-cache``, a folder of the cache's own that is made
for its owner only (0700, files 0600), a value is written beside its final name and renamed, and what nobody read for
two weeks is removed. An entry is its SHA-256 and a plain value (`leakaudit.safety.plain`), no pickle; one that was
changed by a single bit, that was cut off, or that is no file of this user is treated as absent.

``$LEAKAUDIT_CACHE_DIR`` names the folder in which ``leakaudit-cache`` is made, instead of ``~/.cache/leakaudit``.
Nothing else in it is touched: only regular files with the name of an entry, directly in ``leakaudit-cache``, are ever
read or removed, links are not followed, and no mode is changed. A ``leakaudit-cache`` that is a link, or that another
user owns or can write, is not used.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakaudit.errors import UsageError
from leakaudit.safety.ownership import own_content, reason_against
from leakaudit.safety.plain import NotPlain, packed, unpacked

KEPT_SECONDS = 14 * 24 * 3600.0
"""Two weeks, after which an entry that nobody read is removed; chosen."""
FOLDER = "leakaudit-cache"
_KEY = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(r"[0-9a-f]{64}\.(entry|pt)|unfinished-\w+\.part")
"""Names of files that a cache makes: entries, those of earlier versions, and what a killed writer leaves."""
_WAY_OUT = "set LEAKAUDIT_CACHE_DIR, or pass --no-cache"


def cache_directory() -> Path:
    """The folder in which the cache makes its own; need not exist."""
    if own := os.environ.get("LEAKAUDIT_CACHE_DIR"):
        return _expanded(own)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "leakaudit"


def _expanded(path: str) -> Path:
    """The path with its ``~``; of a user without a home it stays, below a folder that cannot be made."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(os.devnull, path)


class Cache:
    """Values on disk by key. A value is made of tensors, numbers, text, lists, tuples and dictionaries of these.

    Args:
        directory: The folder in which ``leakaudit-cache`` is made when the first value is stored; default
            :func:`cache_directory`.

    Raises:
        UsageError: ``leakaudit-cache`` cannot be written or is not only the user's own (when a value is stored).
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.folder = (cache_directory() if directory is None else directory) / FOLDER

    def get(self, key: str) -> Any:
        """The value of a key, or ``None``: absent, damaged, or written by something that is no longer readable.

        Raises:
            ValueError: The key is no hash.
        """
        path = self._path(key)
        if self._refusal():
            return None
        try:
            content = own_content(path)
            value = unpacked(content[_HASHED:]) if _hash(content[_HASHED:]) == content[:_HASHED] else None
            os.utime(path, follow_symlinks=False)
        except (OSError, ValueError, MemoryError):
            return None
        return value

    def put(self, key: str, value: Any) -> None:
        """Store a value; a killed process leaves either all of it or nothing under its name.

        A value that is not made of the things named above is not kept.

        Raises:
            UsageError: The folder cannot be written, is a link, or is not only the user's own.
            ValueError: The key is no hash.
        """
        path = self._path(key)
        try:
            content = packed(value)
        except NotPlain:
            return
        try:
            self._make()
            descriptor, unfinished = tempfile.mkstemp(".part", "unfinished-", self.folder)  # made with 0600
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(_hash(content))
                    stream.write(content)
                os.replace(unfinished, path)
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot write the cache in {self.folder}: {reason}", _WAY_OUT) from error

    def remove_old(self, seconds: float = KEPT_SECONDS) -> int:
        """Remove entries, and rests of killed writers, that nobody read for this long; how many."""
        limit, removed = time.time() - seconds, 0
        if self._refusal():
            return 0
        for path in self._entries():
            try:
                if path.lstat().st_mtime < limit:
                    path.unlink()
                    removed += 1
            except OSError:  # another process was faster
                continue
        return removed

    def _entries(self) -> list[Path]:
        """The regular files that a cache made; whatever else lies there is not its own."""
        try:
            with os.scandir(self.folder) as found:
                return [
                    Path(item.path)
                    for item in found
                    if _ENTRY.fullmatch(item.name) and item.is_file(follow_symlinks=False)
                ]
        except OSError:
            return []

    def _make(self) -> None:
        """Make the folder, for its owner only, where there is none; leave the mode of one that is there.

        Raises:
            UsageError: What is there must not be used.
        """
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if reason := self._refusal():
            raise UsageError(f"the cache's folder {self.folder} {reason}", _WAY_OUT)

    def _refusal(self) -> str:
        """Why what is there must not be used, or ""; an absent folder is no reason."""
        try:
            status = self.folder.lstat()
        except OSError:
            return ""
        if not stat.S_ISDIR(status.st_mode):
            return "is a link or no folder"
        return reason_against(status) if hasattr(os, "geteuid") else ""

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no hash of 64 hexadecimal digits")
        return self.folder / f"{key}.entry"


_HASHED = hashlib.sha256().digest_size
"""Bytes of the hash in front of an entry, by definition."""


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


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
