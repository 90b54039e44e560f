"""Files of a report on disk: complete or not at all, for their owner only, and nothing left of a killed run for long.

All contents are in memory before anything is written. Each file is then written beside its final name, flushed, and
renamed when all are there, so private data stands under a temporary name for milliseconds. A file that a kill leaves in
that moment is locked by nobody; the next run that writes to the folder removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from leakaudit.errors import UsageError

try:
    import fcntl
except ImportError:  # no such locks on this system: unfinished files are then told by their age
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\.leakaudit-[0-9a-f]{16}")
_FORMER = re.compile(r"\.leakaudit-[a-z0-9_]{8}")
"""Folders in which earlier versions rendered."""
_FORMER_CONTENT = re.compile(r"(report\.(json|html|pdf|sarif|junit\.xml|md)|scores\.csv)")
PATIENCE = 10.0
"""Seconds for which another writer is waited for; chosen: renaming takes milliseconds."""
OLD_SECONDS = 3600.0
"""Age at which what cannot be locked is taken for the rest of a killed run."""


def replace_files(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a directory under their names, none before all are on disk; older ones are replaced.

    Where one cannot be replaced, those before it are put back, so that old and new are never mixed.

    Raises:
        UsageError: The directory is not writable.
    """
    prepare(directory)
    with told(directory), ExitStack() as stack:
        unfinished = {name: stack.enter_context(_unfinished(directory, content)) for name, content in files.items()}
        stack.enter_context(_alone(directory))
        older = {name: stack.enter_context(_second_name(directory / name)) for name in files}
        done: list[str] = []
        try:
            for name, path in unfinished.items():
                os.replace(path, directory / name)
                done.append(name)
        except OSError:
            for name in done:
                _put_back(directory / name, older[name])
            raise
    return [directory / name for name in files]


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One writer after the other, where the system has locks, so that the files of two are never mixed."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        until = time.monotonic() + PATIENCE
        while not _locked(descriptor) and time.monotonic() < until:
            time.sleep(PATIENCE / 1000)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the lock was taken now, or this file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _second_name(path: Path) -> Iterator[Path | None]:
    """Another name of a file, so that it can be put back; ``None`` where there is no file.

    Raises:
        OSError: What is there is no file, or can neither have a second name nor be copied.
    """
    name = path.with_name(f".leakaudit-{secrets.token_hex(8)}")
    try:
        os.link(path, name, follow_symlinks=False)
    except FileNotFoundError:
        yield None
        return
    except OSError:  # a folder, or a file system without such names, such as FAT and many network shares
        with _unfinished(path.parent, _content(path)) as copy:
            yield copy
        return
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    """What a regular file holds.

    Raises:
        OSError: It is none.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise IsADirectoryError(errno.EISDIR, "there is a folder or link in the place of a file", str(path))
    return path.read_bytes()


def _put_back(path: Path, older: Path | None) -> None:
    """The file as it was before; gone where there was none."""
    with suppress(OSError):
        if older is None:
            path.unlink()
        else:
            os.replace(older, path)


def prepare(directory: Path) -> None:
    """Create a directory, see that it can be written, and remove what killed runs left in it.

    Raises:
        UsageError: It is not writable.
    """
    with told(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with _unfinished(directory, b""):
            pass
    remove_unfinished(directory)


@contextmanager
def told(directory: Path) -> Iterator[None]:
    """An error of the system as one of usage."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot write the report to {directory}: {reason}", "choose another folder with --out"
        ) from error


@contextmanager
def _unfinished(directory: Path, content: bytes) -> Iterator[Path]:
    """A new file for its owner only, on disk and locked; gone at the end unless it was renamed."""
    path, descriptor = _locked_file(directory)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            yield path
    finally:
        path.unlink(missing_ok=True)


def _locked_file(directory: Path) -> tuple[Path, int]:
    """A new file that is ours alone: another run may remove it in the moment before it is locked."""
    while True:
        path = directory / f".leakaudit-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def remove_unfinished(directory: Path) -> list[Path]:
    """Remove files that killed runs of this user left, not those that a living one writes; those removed."""
    found = [path for path in directory.iterdir() if _UNFINISHED.fullmatch(path.name) and _abandoned(path)]
    former = [path for path in directory.iterdir() if _FORMER.fullmatch(path.name) and _abandoned_folder(path)]
    for path in found:
        path.unlink(missing_ok=True)
    for folder in former:
        shutil.rmtree(folder, ignore_errors=True)
    return [*found, *former]


def _abandoned(path: Path) -> bool:
    """Whether nobody writes this file any more."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _own(status):
            return False
        if fcntl is None:
            return time.time() - status.st_mtime > OLD_SECONDS
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # locked by its writer
        return False
    finally:
        os.close(descriptor)


def _abandoned_folder(path: Path) -> bool:
    """Whether this is the folder of an earlier version's killed run: its files only, and an hour old."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or not _own(status) or time.time() - status.st_mtime < OLD_SECONDS:
        return False
    return all(_FORMER_CONTENT.fullmatch(entry.name) and not entry.is_symlink() for entry in path.iterdir())


def _own(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
