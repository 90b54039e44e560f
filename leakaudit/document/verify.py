"""Whether a report is as it was written, and its model and batch are those that it speaks of.

A report is its JSON, or the HTML or PDF that carries it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakaudit.client.readers.npz import hash_files
from leakaudit.document.carried import is_page, is_pdf, page_hashes
from leakaudit.document.schema import HASH_KEY, read_document, self_hash


@dataclass(frozen=True)
class Check:
    """One hash compared; `holds` is ``None`` where there is none to compare."""

    what: str
    holds: bool | None
    detail: str


def check_self(report: Path) -> Check:
    """The hash over the document itself."""
    document = read_document(report)
    return _compare("report", document.get(HASH_KEY), self_hash(document))


def check_page(report: Path) -> list[Check]:
    """Of an HTML report, the hash over the page beside its document; of a PDF, that its pages have none."""
    content = report.read_bytes()
    if is_page(content):
        stated, found = page_hashes(content)
        return [_compare("page", stated, found)]
    if is_pdf(content):
        told = "not checked, only the document that is attached; leakaudit render shows it anew"
        return [Check("pages", None, told)]
    return []


def check_model(report: Path, model: Path) -> Check:
    """The hash of the model file and of the external data beside it."""
    from leakaudit.target.hashing import hash_model

    return _compare("model", _section(report, "target"), hash_model(model))


def check_batch(report: Path, batch: Path) -> Check:
    """The hash of the batch file or folder."""
    from leakaudit.client.readers.images import hash_batch

    return _compare("batch", _section(report, "batch"), hash_batch(batch))


def check_update(report: Path, update: Path) -> Check:
    """The hash of a recorded update; of several rounds, those of all that were audited."""
    from leakaudit.client.rounds.folder import shared_in

    files = shared_in(update) if update.is_dir() else [update]
    found = {hash_files([file]) for file in files}
    protocol = read_document(report).get("protocol")
    section = protocol if isinstance(protocol, dict) else {}
    rounds = [entry.get("sha256") for entry in section.get("rounds") or [] if isinstance(entry, dict)]
    if not rounds:
        return _compare("update", section.get("update_sha256"), found.pop() if len(found) == 1 else "several files")
    missing = [digest for digest in rounds if digest not in found]
    if missing:
        return Check("update", False, f"{len(missing)} of the report's {len(rounds)} rounds are not there as they were")
    return Check("update", True, f"{len(rounds)} rounds, each with the SHA-256 of the report")


def _section(report: Path, name: str) -> Any:
    section = read_document(report).get(name)
    return section.get("sha256") if isinstance(section, dict) else None


def _compare(what: str, recorded: Any, found: str) -> Check:
    if not isinstance(recorded, str):
        return Check(what, False, f"the report records no hash; now {found}")
    if recorded == found:
        return Check(what, True, f"SHA-256 {found}")
    return Check(what, False, f"the report records {recorded}, found {found}")
