"""The sizes of an archive, looked at before anything in it is opened: zip bombs.

Claim: what passes unpacks to at most `MAX_ARCHIVE_BYTES`, and no member grows by more than `MAX_RATIO`. What an archive
may hold beyond sizes is decided by its reader (`leakaudit.target.exported.read` for ``.pt2``).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from leakaudit.errors import ModelError

MAX_ARCHIVE_BYTES = 8 << 30
MAX_MEMBERS = 100_000
MAX_RATIO = 200
"""A member that grows by more than this is a bomb; weights hardly compress at all."""


def scan(path: Path) -> None:
    """Look at an archive without unpacking it.

    Raises:
        ModelError: It would unpack to too much.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
            raise ModelError(
                f"{path} would unpack to {total} bytes in {len(members)} files", "it is damaged or hostile"
            )
        for member in members:
            if member.file_size > 1 << 20 and member.file_size > MAX_RATIO * max(1, member.compress_size):
                raise ModelError(
                    f"{path}: {member.filename!r} grows from {member.compress_size} to {member.file_size} bytes",
                    "it is damaged or hostile",
                )
