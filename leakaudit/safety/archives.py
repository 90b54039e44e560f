"""The sizes of a zip archive, looked at before anything in it is unpacked: zip bombs.

Claim: what passes unpacks to at most :data:`MOST` bytes, and to no more than its packed size justifies.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

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
ENCRYPTED = 0x41
"""Bits of a file in a zip archive that say it is encrypted, by definition of the format."""
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
    if not all(member.filename for member in members):
        raise error(f"{path} holds a file without a name", "it is damaged or hostile: write it again")
    if any(member.flag_bits & ENCRYPTED for member in members):
        raise error(f"{path} holds encrypted files, or is damaged", "write it again, without a password")
    total, packed = sum(member.file_size for member in members), path.stat().st_size
    if len(members) > MEMBERS or total > min(MOST, FREE + RATIO * packed):
        raise error(
            f"{path} has {packed} bytes and would unpack to {total} in {len(members)} files",
            "it is damaged or hostile: write it again, without compression where it holds one colour only",
        )
    grant(COPIES * total)


def check_arrays(path: Path, error: type[LeakauditError]) -> None:
    """Refuse an ``.npz`` with an array whose shape asks for more numbers than the file holds: they would be allocated.

    Args:
        path: An archive that :func:`check_unpacked` lets pass.
        error: Kind of the error.

    Raises:
        LeakauditError: One does, or has no readable description.
        zipfile.BadZipFile: The archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as stream:
                asked = _asked_bytes(stream)
            if asked is None or asked > member.file_size:
                what = "has no readable shape" if asked is None else f"asks for {asked} bytes"
                raise error(f"{path}: {member.filename!r} {what}, and holds {member.file_size}", "write the file again")


def _asked_bytes(stream: IO[bytes]) -> int | None:
    """Bytes of the array that a description is of, 0 for objects, which are never read; ``None`` if unreadable."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
    except zipfile.BadZipFile:
        raise
    except Exception:  # tokenize, ast and NumPy raise errors of many types for what is no description
        return None
    return None if any(size < 0 for size in shape) else 0 if kind.hasobject else math.prod(shape) * kind.itemsize
