"""Named pipes, devices and sockets in the place of a file: reading one waits for ever, or never ends.

``/dev/zero`` as a batch fills the memory, a named pipe without a writer blocks before anything is said. Every path of a
user, or in a folder of theirs, goes through :func:`ordinary` before it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TypeVar

from leakaudit.errors import UsageError

_NO_NAMES = (errno.ENAMETOOLONG,)
Place = TypeVar("Place", str, Path)
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def ordinary(path: Place) -> Place:
    """The path, if what it leads to ends when it is read: a file, a folder, the null device, or nothing at all.

    Raises:
        UsageError: It is a pipe, a device or a socket, which it says, or no name that a file can have.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in _NO_NAMES:
            raise UsageError(f"{str(path)[:80]}…: {error.strerror}", "pass a shorter path") from error
        return path  # whoever opens it says why it cannot be
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is no path ({error})", "pass the path of a file") from error
    if stat.S_ISCHR(mode) and os.path.realpath(path) == os.devnull:
        return path
    for matches, what in _KINDS:
        if matches(mode):
            raise UsageError(f"{path} is {what}, expected a file", "write what it gives to a file, and pass that")
    return path
