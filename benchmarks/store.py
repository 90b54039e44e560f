"""Measurements one per line in a file, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

import leakaudit

RESULTS = Path(__file__).resolve().parent / "results"
STORE = RESULTS / "attack_quality.jsonl"
SOURCES = ("attacks", "domains", "matching", "protocols", "recursion", "target", "tasks")
"""Folders of leakaudit that decide what an attack reconstructs."""


@cache
def code_version() -> str:
    """Digest of `SOURCES` as they run: the same in any checkout, whatever the branch, with changes not committed."""
    package, found = Path(leakaudit.__file__).parent, hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (package / folder).rglob("*.py")):
        found.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:8]


@dataclass(frozen=True)
class Measurement:
    """One attack on one victim.

    Args:
        case: What was run.
        victim: Which image or batch.
        psnr: In 0..1, in dB.
        seconds: Of the attack.
        match: Final gradient match, without priors.
        notes: What the attack reported.
        date: Day of the measurement.
        torch: Version.
        code: `code_version` at the time, or "" where that was not recorded.
    """

    case: str
    victim: int
    psnr: float
    seconds: float
    match: float
    notes: tuple[str, ...] = ()
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    torch: str = torch.__version__
    code: str = field(default_factory=code_version)


class Store:
    """The measurements of a file, of which there need be none yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[str, int], Measurement] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._keep(Measurement(**{"code": "", **json.loads(line)}))

    def _keep(self, row: Measurement) -> None:
        self.found[row.case, row.victim] = row

    def get(self, case: str, victim: int) -> Measurement | None:
        """What was measured before."""
        return self.found.get((case, victim))

    def add(self, row: Measurement) -> Measurement:
        """Keep a measurement, also in the file."""
        self._keep(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")
        return row

    def of(self, case: str) -> list[Measurement]:
        """All victims of a case, in order."""
        return [row for (name, _), row in sorted(self.found.items()) if name == case]


def versions(store: Store, titles: Mapping[str, str]) -> str:
    """Which code measured which cases, in a sentence. `titles`: cases by the name that the table gives them."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    for title, case in titles.items():
        for row in store.of(case):
            rows, days = found.setdefault(row.code, ([], set()))
            days.add(row.date)
            if title not in rows:
                rows.append(title)
    if not found:
        return ""
    most = max(found, key=lambda code: len(found[code][0]))
    parts = []
    for code in sorted(found, key=lambda code: code == most):
        rows, days = found[code]
        name = f"`{code}`" if code else "not recorded"
        which = ("all rows" if len(found) == 1 else "the other rows") if code == most else ", ".join(rows)
        parts.append(f"{name} ({' to '.join(sorted({min(days), max(days)}))}): {which}")
    return f"Code of the rows (digest of the attacks' sources; now `{code_version()}`): {'; '.join(parts)}."


def machine(threads: str = "") -> str:
    """What the measurements ran on, in one line; `threads` in words where it is not the present number."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    count = torch.get_num_threads()
    threads = threads or f"{count} thread{'s' if count > 1 else ''}"
    return (
        f"{processor}, {os.cpu_count()} cores, {threads}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, leakaudit {leakaudit.__version__} ({code_version()}), {time.strftime('%Y-%m-%d')}"
    )
