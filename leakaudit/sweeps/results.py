"""The result of one cell, as one object that is there whole or not at all: a zip archive in memory.

``cell.json`` holds what the tables of a sweep need, so that a million of them are read without a single report;
``report.json`` and the other formats lie beside it as they are written into the cell's folder. What is read back comes
from a store that others may write to: names and sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import PurePosixPath

from pydantic import ConfigDict, TypeAdapter, with_config

from leakaudit.document.schema import Severity
from leakaudit.document.status import CellStatus, VerdictStatus
from leakaudit.errors import AuditError

HEAD = "cell.json"
DOCUMENT = "report.json"
LARGEST = 1 << 30
"""Bytes of one file of a result that are unpacked at most; chosen: a report with its pictures has some megabytes."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, OSError, EOFError, RuntimeError)
"""What reading an archive raises that is none, is damaged, asks for a password, or nests without end."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of all entries, so that equal results are equal bytes; the first that an archive can hold, by definition."""


_EXACTLY = ConfigDict(strict=True, extra="forbid")
"""How what is read back is held to its types."""


@with_config(_EXACTLY)
@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the tables of a sweep say of one report.

    Args:
        verdict: Its code.
        severity: Of its worst finding.
        inconclusive: Whether nothing can be concluded.
        failing: Findings that the policy fails on.
        leaked: Samples that leaked.
        samples: Samples that were attacked.
        closest: The domain's first metric of the closest reconstruction; ``None`` where it is exact, or there is none.
        metric: Name of that metric.
        told: How near the closest reconstruction is, in words.
        attack: The attack that it came from.
    """

    verdict: VerdictStatus
    severity: Severity
    inconclusive: bool
    failing: tuple[str, ...] = ()
    leaked: int = 0
    samples: int = 0
    closest: float | None = None
    metric: str = ""
    told: str = ""
    attack: str = ""


@with_config(_EXACTLY)
@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one cell.

    Args:
        key: Of the cell.
        status: What became of it.
        reason: Why there is no report.
        error: Name of the error of leakaudit that says so, where there was one.
        hint: Its way out, where the reason may quote samples as well.
        seconds: That the audit took, without the rendering.
        policy: Hash of the policy that the files were judged by.
        facts: Of the report; ``None`` without one.
        files: The report's files by name; empty where only the head was read.
    """

    key: str
    status: CellStatus
    reason: str = ""
    error: str = ""
    hint: str = ""
    seconds: float = 0.0
    policy: str = ""
    facts: Facts | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The archive."""
        head = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "files"}
        head |= {"status": str(self.status), "facts": None if self.facts is None else asdict(self.facts)}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in {HEAD: json.dumps(head).encode(), **self.files}.items():
                archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
        return stream.getvalue()


def unpack(content: bytes, *, head_only: bool = False) -> Result:
    """The result in an archive.

    Args:
        content: The archive.
        head_only: Leave the files out, packed as they are: whether they can be read is not looked at.

    Raises:
        AuditError: It is none, is damaged, or holds what no result does.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            head = _heads().validate_json(_member(archive, HEAD))
            names = () if head_only else archive.namelist()
            return replace(head, files={name: _member(archive, name) for name in names if name != HEAD})
    except _DAMAGE as error:
        raise AuditError("a result in the store is damaged", "remove it, and the cell is audited again") from error


@cache
def _heads() -> TypeAdapter[Result]:
    """What a head is held to: the fields of a result but its files, each of its type."""
    return TypeAdapter(Result)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive.

    Raises:
        ValueError: Its name leads elsewhere, it is larger than any report, or packed as none is.
    """
    entry = archive.getinfo(name)
    packed = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if PurePosixPath(name).name != name or entry.file_size > LARGEST or not packed:
        raise ValueError(name)
    with archive.open(name) as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(name)
    return content
