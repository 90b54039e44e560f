"""Where a store lies: a folder of this machine, whatever fsspec reaches by a URL (S3 and its like), or this process.

All can do five things: read, write at once, make a file only if it is not there, remove, and list. A write is there
whole or not at all: a folder renames a finished file, an object store shows an object when it is complete. Making is
exclusive, by the system's own flag or by a condition on the write, and that is all that sharing work is built on.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from leakaudit.errors import UsageError
from leakaudit.report.files import replace_files
from leakaudit.report.ignoring import keep_out_of_git
from leakaudit.safety.ownership import foreign_hands, own_content

WAY_OUT = "choose another with --store"
PARTS = ("results", "claims")
"""Folders of a store."""


class Place(Protocol):
    """Files by their names, which may have folders in them."""

    def read(self, name: str) -> bytes | None:
        """The content, or ``None`` where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, in place of an older one."""

    def make(self, name: str, content: bytes) -> bool:
        """Put a file there if there is none; whether that was so."""

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""

    def names(self, folder: str) -> list[str]:
        """The files in a folder and below, by their whole names."""


def place_of(where: str | Path, *, make: bool = True) -> Place:
    """The place that a path or URL leads to.

    Args:
        where: A path, or a URL that fsspec reaches.
        make: Whether its folder is made; otherwise nothing is changed as long as nothing is written.

    Raises:
        UsageError: Nothing here reaches it, or another user can write it.
    """
    text = str(where)
    if isinstance(where, str) and "://" in text and text.partition("://")[0] not in ("file", "local"):
        return Remote(text, make=make)
    return Folder(Path(text.partition("://")[2] or text), make=make)


class Held:
    """Files in the memory of this process, for results that are not to outlive it."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """See :class:`Place`."""
        return self._files.get(name)

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Place`."""
        self._files[name] = content

    def make(self, name: str, content: bytes) -> bool:
        """See :class:`Place`; setting a default is one step for all threads."""
        return self._files.setdefault(name, content) is content

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        self._files.pop(name, None)

    def names(self, folder: str) -> list[str]:
        """See :class:`Place`."""
        return [name for name in list(self._files) if name.partition("/")[0] == folder]


class Folder:
    """A folder of this machine, for its owner only.

    Args:
        path: Of the folder.
        make: Whether it is made where it is not there.

    Raises:
        UsageError: It cannot be written, or another user can write it.
    """

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self.path = path
        try:
            if make:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            reason = foreign_hands(path) if make or path.exists() else ""
            if make and not reason:
                keep_out_of_git(path, PARTS, PARTS)
        except OSError as error:
            raise UsageError(f"the store {path} cannot be used: {error.strerror}", WAY_OUT) from error
        if reason:
            raise UsageError(f"the store {path} is not used: it {reason}", WAY_OUT)

    def read(self, name: str) -> bytes | None:
        """See :class:`Place`."""
        try:
            return own_content(self.path / name)
        except OSError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Place`."""
        target = self.path / name
        replace_files(target.parent, {target.name: content})

    def make(self, name: str, content: bytes) -> bool:
        """See :class:`Place`."""
        target = self.path / name
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        except OSError as error:
            raise UsageError(f"the store {self.path} cannot be written: {error.strerror}", WAY_OUT) from error
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        return True

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        with suppress(OSError):
            (self.path / name).unlink()

    def names(self, folder: str) -> list[str]:
        """See :class:`Place`."""
        found = (self.path / folder).rglob("*")
        return [
            path.relative_to(self.path).as_posix() for path in found if not path.name.startswith(".") and path.is_file()
        ]


class Remote:
    """What fsspec reaches by a URL.

    Args:
        url: With its protocol, as ``s3://bucket/folder``; credentials are the environment's.
        make: Whether its folder is made where it is not there.

    Raises:
        UsageError: No installed package reaches it, or it refuses.
    """

    def __init__(self, url: str, *, make: bool = True) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self._made: set[str] = set()
        try:
            self.system, self.root = url_to_fs(url)
            if make:
                self._make(self.root)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"the store {url} cannot be reached: {error}", "install the package that it names"
            ) from error
        except Exception as error:  # every file system has errors of its own
            raise self._refused(error) from error

    def read(self, name: str) -> bytes | None:
        """See :class:`Place`."""
        try:
            content: bytes = self.system.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._refused(error) from error
        return content

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Place`."""
        self._put(name, content, "overwrite")

    def make(self, name: str, content: bytes) -> bool:
        """See :class:`Place`."""
        try:
            self._put(name, content, "create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        with suppress(FileNotFoundError):
            self.system.rm_file(self._path(name))

    def names(self, folder: str) -> list[str]:
        """See :class:`Place`."""
        self.system.invalidate_cache()
        try:
            found: list[str] = self.system.find(self._path(folder))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._refused(error) from error
        return [path.removeprefix(self.root).removeprefix("/") for path in found]

    def _put(self, name: str, content: bytes, mode: str) -> None:
        path = self._path(name)
        try:
            self._make(path.rpartition("/")[0])
            self.system.pipe_file(path, content, mode=mode)
        except FileExistsError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _make(self, folder: str) -> None:
        """Make a folder once; each time it is a request to the server."""
        if folder not in self._made:
            self.system.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _refused(self, error: Any) -> UsageError:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return UsageError(f"the store {self.url} refuses: {reason}", "check the address and the credentials")
