"""The sizes of a zip archive, looked at before anything in it is unpacked: zip bombs.

Claim: what passes unpacks to at most :data:`MOST` bytes, and to no more than its packed size justifies.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from leakaudit.errors import LeakauditError
from leakaudit.safety.confined import grant

MOST = 8 << 30
"""Bytes that any archive may unpack to; chosen."""
MEMBERS = 100_000
"""Files that any archive may hold; chosen."""
RATIO = 200
"""Bytes that a packed byte may become; chosen: weights hardly shrink, pictures of one colour do a thousandfold."""
FREE = 64 << 20
"""Bytes that any archive may unpack to, whatever its packed size; chosen."""
COPIES = 3
"""How often what was unpacked may stand in memory: as read, as arrays, as the answer; chosen."""


def check_unpacked(path: Path, error: type[LeakauditError]) -> None:
    """Refuse an archive that unpacks to too much, and grant a child the memory for one that does not.

    Args:
        path: The archive.
        error: Kind of the error.

    Raises:
        LeakauditError: It would unpack to too much, for its size or at all.
        zipfile.BadZipFile: It is none.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    total, packed = sum(member.file_size for member in members), path.stat().st_size
    if len(members) > MEMBERS or total > min(MOST, FREE + RATIO * packed):
        raise error(
            f"{path} has {packed} bytes and would unpack to {total} in {len(members)} files",
            "it is damaged or hostile: write it again, without compression where it holds one colour only",
        )
    grant(COPIES * total)
