"""The result of one cell, as one object that is there whole or not at all: a zip archive in memory.

``cell.json`` holds what the tables of a sweep need, so that a million of them are read without a single report;
``report.json`` and the other formats lie beside it as they are written into the cell's folder. What is read back comes
from a store that others may write to: names and sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError

HEAD = "cell.json"
DOCUMENT = "report.json"
LARGEST = 1 << 30
"""Bytes of one file of a result that are unpacked at most; chosen: a report with its pictures has some megabytes."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of all entries, so that equal results are equal bytes; the first that an archive can hold, by definition."""


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

    verdict: str
    severity: str
    inconclusive: bool
    failing: tuple[str, ...] = ()
    leaked: int = 0
    samples: int = 0
    closest: float | None = None
    metric: str = ""
    told: str = ""
    attack: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one cell.

    Args:
        key: Of the cell.
        status: What became of it.
        reason: Why there is no report.
        seconds: That the audit took, without the rendering.
        policy: Hash of the policy that the files were judged by.
        facts: Of the report; ``None`` without one.
        files: The report's files by name; empty where only the head was read.
    """

    key: str
    status: CellStatus
    reason: str = ""
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
        head_only: Leave the files out.

    Raises:
        AuditError: It is none, is damaged, or holds what no result does.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            head = json.loads(_member(archive, HEAD))
            names = [] if head_only else [name for name in archive.namelist() if name != HEAD]
            files = {name: _member(archive, name) for name in names}
        return _result(head, files)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise AuditError("a result in the store is damaged", "remove it, and the cell is audited again") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive.

    Raises:
        ValueError: Its name leads elsewhere, or it is larger than any report.
    """
    if PurePosixPath(name).name != name or archive.getinfo(name).file_size > LARGEST:
        raise ValueError(name)
    with archive.open(name) as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(name)
    return content


def _result(head: dict[str, Any], files: Mapping[str, bytes]) -> Result:
    facts = head["facts"]
    if facts is not None:
        facts = Facts(**{**facts, "failing": tuple(facts["failing"])})
    own = {f.name: head[f.name] for f in fields(Result) if f.name not in ("files", "facts", "status")}
    return Result(**own, status=CellStatus(head["status"]), facts=facts, files=files)
