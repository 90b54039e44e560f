"""Whether another user of this machine can write a file or folder, by the rules of ``git``'s safe.directory and sshd.

| what | trusted when |
|---|---|
| owner | it is me or root; for root under sudo, also the user who called sudo (as git does) |
| group may write | the group is the owner's private one, with nobody else in it (as sshd of Debian does) |
| all may write | never, except that a folder with the sticky bit, as /tmp, protects the files in it |

Systems without owners (Windows) are not checked.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags that refuse to open a link, and to wait for a pipe; no bits, by definition, where the system has none."""
LARGEST = 1 << 31
"""Bytes of a file that one's own programs have written, at most; chosen."""


def foreign_hands(path: Path) -> str:
    """Why another user can write what this path leads to, or "" where nobody else can.

    Args:
        path: A file, a folder or a link to one; the last is followed.

    Raises:
        OSError: It is not there.
    """
    return "" if not hasattr(os, "geteuid") else reason_against(path.stat())


def own_content(path: Path) -> bytes:
    """The bytes of a regular file, and no link to one, that nobody else can write.

    Raises:
        OSError: It is none, too large, or not there.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINK), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and reason_against(status)):
            raise OSError(f"{path} is not a file of one's own")
        if status.st_size > LARGEST:
            raise OSError(f"{path} has {status.st_size} bytes, more than any of ours")
        return stream.read()


def reason_against(status: os.stat_result) -> str:
    """Like :func:`foreign_hands`, of something that is open already."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in _trusted_users():
        return f"belongs to another user (number {status.st_uid})"
    if stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX:
        return ""
    if mode & stat.S_IWOTH:
        return f"can be written by every user (mode {mode:04o})"
    if mode & stat.S_IWGRP and not _private_group(status):
        return f"can be written by the users of group {status.st_gid} (mode {mode:04o})"
    return ""


def _trusted_users() -> set[int]:
    """User numbers whose files count as one's own."""
    trusted = {os.geteuid(), 0}
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and caller.isdecimal():
        trusted.add(int(caller))
    return trusted


def _private_group(status: os.stat_result) -> bool:
    """Whether the group is the owner's own: it has the owner's name, and no other member."""
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and group.gr_gid == owner.pw_gid and set(group.gr_mem) <= {owner.pw_name}
