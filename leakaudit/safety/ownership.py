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


def foreign_hands(path: Path) -> str:
    """Why another user can write what this path leads to, or "" where nobody else can.

    Args:
        path: A file, a folder or a link to one; the last is followed.

    Raises:
        OSError: It is not there.
    """
    return "" if not hasattr(os, "geteuid") else reason_against(path.stat())


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
