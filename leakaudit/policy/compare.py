"""Two reports of one model: what got worse, with the uncertainty of the measurement as tolerance.

A finding is *worse* than the one of the same rule before when its severity rose, or when more samples leak than
chance explains: the new share k/n lies above the old one's 95 % Clopper-Pearson interval. It is *new* when the rule
found nothing before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from leakaudit.audit.request import Request
from leakaudit.defences.base import defended_protocol
from leakaudit.document.counting import count
from leakaudit.document.schema import FindingEntry, Report, Severity
from leakaudit.document.status import RunStatus
from leakaudit.errors import UsageError
from leakaudit.scoring.interval import clopper_pearson

COUNTS = (("samples_leaked", "samples_attacked"), ("correct", "total"))
"""Evidence keys that hold a share: how many of how many."""


@dataclass(frozen=True)
class Change:
    """What became of one finding."""

    id: str
    kind: Literal["new", "worse", "same", "gone"]
    detail: str


def compare_findings(old: Sequence[FindingEntry], new: Sequence[FindingEntry]) -> list[Change]:
    """A change per new finding in its order; the findings of one rule are matched in their order."""
    earlier: dict[str, list[FindingEntry]] = defaultdict(list)
    for finding in old:
        earlier[finding.id].append(finding)
    return [_change(earlier[finding.id].pop(0) if earlier[finding.id] else None, finding) for finding in new]


def gone(old: Sequence[FindingEntry], new: Sequence[FindingEntry]) -> list[Change]:
    """Findings that are no longer there."""
    left = compare_findings(new, old)
    return [Change(c.id, "gone", "no longer found") for c in left if c.kind == "new"]


@dataclass(frozen=True)
class Setup:
    """What two audits must have in common for their findings to be comparable; ``None`` where it is not known.

    Args:
        mode: Of the clients, or of each of several variants, in ascending order.
        batch_size: Samples that a client has behind an update, before defences.
        defences: What clients do to their updates, in this order.
        threat_model: Attacks that need a stronger attacker than this letter were not run.
        protocol: Name of the protocol, its local steps, the statistics that are shared, and its own settings.
    """

    mode: tuple[str, ...]
    batch_size: int
    defences: tuple[str, ...]
    threat_model: str | None = None
    protocol: tuple[str, int, str, str] | None = None

    @classmethod
    def of(cls, report: Report) -> Setup:
        """Of a report."""
        modes = {variant.mode for variant in report.variants if variant.mode} or {report.protocol.mode}
        protocol = report.protocol
        return cls(
            mode=tuple(sorted(modes)),
            batch_size=report.batch.batch_size,
            defences=tuple(defence.text for defence in report.defences),
            threat_model=report.threat_model,
            protocol=(protocol.algorithm, protocol.steps, protocol.shared_statistics, _listed(protocol.settings)),
        )

    @classmethod
    def asked(cls, request: Request, before: Report) -> Setup:
        """Of the audit that a request asks for.

        Of a recorded update, and of a client that trains on all samples, the size is taken to be the one before;
        whether a recorded update holds statistics, it says itself.
        """
        if request.local and request.samples is None:
            request = replace(request, samples=before.batch.batch_size)
        protocol = defended_protocol(request.protocol, request.defending())
        statistics: str = protocol.shared_statistics
        if request.recorded and statistics == "none":
            statistics = before.protocol.shared_statistics
        return cls(
            mode=tuple(sorted(request.modes)),
            batch_size=before.batch.batch_size if request.recorded else request.protocol.batch_size,
            defences=tuple(map(str, request.defending())),
            threat_model=request.threat_model,
            protocol=(protocol.name, protocol.steps, statistics, _listed(protocol.settings)),
        )

    def differs(self, other: Setup) -> list[str]:
        """What differs from another, each as a sentence's part; what one of them does not know does not."""
        pairs = (
            ("mode", " and ".join(self.mode), " and ".join(other.mode)),
            ("batch size", self.batch_size, other.batch_size),
            ("defences", ", ".join(self.defences) or "none", ", ".join(other.defences) or "none"),
            ("threat model", self.threat_model, other.threat_model),
            ("protocol", _told(self.protocol), _told(other.protocol)),
        )
        return [f"{name} {a} before, {b} now" for name, a, b in pairs if None not in (a, b) and a != b]


def _listed(settings: Mapping[str, Any]) -> str:
    """A protocol's own settings in one text, in the order of their names."""
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))


def _told(protocol: tuple[str, int, str, str] | None) -> str | None:
    if protocol is None:
        return None
    name, steps, statistics, settings = protocol
    return f"{name} of {count(steps, 'step')}, statistics shared: {statistics}" + (f", {settings}" if settings else "")


def refuse_different(old: Setup, new: Setup) -> None:
    """Refuse to compare audits of different protocols, defences or threat models.

    Raises:
        UsageError: They differ; says in what.
    """
    if found := old.differs(new):
        raise UsageError(
            f"the two audits are not of the same thing: {'; '.join(found)}",
            "compare with a report made by the same options, or pass --allow-different",
        )


def differences(old: Report, new: Report) -> list[str]:
    """What makes the two reports less comparable."""
    pairs = (
        ("model", old.target.sha256, new.target.sha256),
        ("batch", old.batch.sha256, new.batch.sha256),
        ("preset", old.preset, new.preset),
        ("seed", old.seed, new.seed),
        ("batch size", old.batch.batch_size, new.batch.batch_size),
        ("victims", old.batch.victims, new.batch.victims),
        ("attacks run", _ran(old), _ran(new)),
        ("leakaudit", old.tool.version, new.tool.version),
    )
    return [f"{name}: {_short(a)} before, {_short(b)} now" for name, a, b in pairs if a != b]


def _ran(report: Report) -> str:
    return ", ".join(attack.name for attack in report.attacks if attack.status is RunStatus.RUN)


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and " " not in text else text


def _change(old: FindingEntry | None, new: FindingEntry) -> Change:
    if old is None:
        return Change(new.id, "new", "not in the baseline")
    levels = get_args(Severity)
    if levels.index(new.severity) < levels.index(old.severity):
        return Change(new.id, "worse", f"severity rose from {old.severity} to {new.severity}")
    for part, whole in COUNTS:
        before, now = share(old, part, whole), share(new, part, whole)
        if before and now:
            upper = clopper_pearson(*before)[1]
            text = f"{now[0]} of {now[1]}, {before[0]} of {before[1]} before (95 % interval up to {upper:.0%})"
            return Change(new.id, "worse" if now[0] / now[1] > upper else "same", text)
    return Change(new.id, "same", "as in the baseline")


def share(finding: FindingEntry, part: str, whole: str) -> tuple[int, int] | None:
    """How many of how many, if the evidence says."""
    some, all_ = finding.evidence.get(part), finding.evidence.get(whole)
    return (some, all_) if isinstance(some, int) and isinstance(all_, int) and all_ > 0 else None
