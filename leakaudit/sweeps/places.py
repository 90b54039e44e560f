"""Where a store lies: a folder of this machine, or whatever fsspec reaches by a URL (S3 and its like, memory, …).

Both can do five things: read, write at once, make a file only if it is not there, remove, and list. A write is there
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
from leakaudit.safety.ownership import foreign_hands

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


def place_of(where: str | Path) -> Place:
    """The place that a path or URL leads to.

    Raises:
        UsageError: Nothing here reaches it, or another user can write it.
    """
    text = str(where)
    if isinstance(where, str) and "://" in text and text.partition("://")[0] not in ("file", "local"):
        return Remote(text)
    return Folder(Path(text.partition("://")[2] or text))


class Folder:
    """A folder of this machine, for its owner only.

    Args:
        path: Made if it is not there.

    Raises:
        UsageError: It cannot be written, or another user can write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            reason = foreign_hands(path)
            if not reason:
                keep_out_of_git(path, PARTS, PARTS)
        except OSError as error:
            raise UsageError(f"the store {path} cannot be used: {error.strerror}", WAY_OUT) from error
        if reason:
            raise UsageError(f"the store {path} is not used: it {reason}", WAY_OUT)

    def read(self, name: str) -> bytes | None:
        """See :class:`Place`."""
        try:
            return (self.path / name).read_bytes()
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

    Raises:
        UsageError: No installed package reaches it, or it refuses.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        try:
            self.system, self.root = url_to_fs(url)
            self.system.makedirs(self.root, exist_ok=True)
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
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.system.pipe_file(path, content, mode=mode)
        except FileExistsError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _refused(self, error: Any) -> UsageError:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return UsageError(f"the store {self.url} refuses: {reason}", "check the address and the credentials")
