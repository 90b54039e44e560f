"""The registry of rules. A rule turns evidence into findings; its docstring is its page and its remedy is concrete.

A rule is a generator function from the :class:`Evidence` to :class:`Found`, registered by :func:`rule` under an id that
never changes its meaning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from leakaudit.document.schema import (
    AttackEntry,
    BatchSection,
    ClaimEntry,
    Confidence,
    ControlEntry,
    DefenceEntry,
    FindingEntry,
    ProtocolSection,
    RankSection,
    SampleResult,
    Severity,
    TargetSection,
    VictimResult,
)
from leakaudit.errors import UsageError

SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low", "none")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the rules look at; sections of the report.

    Args:
        target: The model.
        protocol: How the update was made.
        rank: Architecture risk.
        attacks: The ledger with its results.
        batch: The private samples: counts and notes.
        controls: What the controls showed.
        defences: What the client applied to the update.
        claims: What the client believes was applied, without applying it here.
        partial: Why the audit ended early, or "".
    """

    target: TargetSection
    protocol: ProtocolSection
    rank: RankSection
    attacks: list[AttackEntry]
    batch: BatchSection | None = None
    controls: Sequence[ControlEntry] = ()
    defences: Sequence[DefenceEntry] = ()
    claims: Sequence[ClaimEntry] = ()
    partial: str = ""

    def controlled(self, attack: str) -> bool:
        """Whether the negative and the prior-only control of an attack (by name) were run."""
        done = {c.kind for c in self.controls if c.attack == attack and c.passed is not None}
        return done >= {"negative", "prior_only"}


@dataclass(frozen=True)
class Found:
    """What a rule found.

    Args:
        severity: What leaked.
        confidence: How sure that is.
        message: One or two sentences with the numbers.
        evidence: The numbers for programs.
        remedy: Replaces the rule's own where the evidence names a more specific one.
    """

    severity: Severity
    confidence: Confidence
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""


Judge = Callable[[Evidence], Iterator[Found]]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
        id: Stable identifier.
        title: One line.
        worst: The highest severity that it can have; ``none`` for a note that is never a finding.
        remedy: The way out.
        page: Its documentation: the docstring.
        judge: From evidence to what was found.
    """

    id: str
    title: str
    worst: Severity
    remedy: str
    page: str
    judge: Judge

    @property
    def summary(self) -> str:
        """The first paragraph of the page, on one line."""
        return " ".join(self.page.split("\n\n")[0].split())


RULES: dict[str, Rule] = {}


def rule(identifier: str, title: str, *, worst: Severity, remedy: str) -> Callable[[Judge], Judge]:
    """Register a rule under its id.

    Raises:
        ValueError: The id is taken: ids never change their meaning.
    """

    def register(function: Judge) -> Judge:
        if identifier in RULES:
            raise ValueError(f"{identifier} is taken by {RULES[identifier].title!r}")
        RULES[identifier] = Rule(identifier, title, worst, remedy, inspect.getdoc(function) or "", function)
        return function

    return register


def rule_named(identifier: str) -> Rule:
    """The rule of an id, in any case.

    Raises:
        UsageError: There is none.
    """
    found = RULES.get(identifier.strip().upper())
    if found is None:
        family = [name for name in sorted(RULES) if name[:3] == identifier.strip().upper()[:3]]
        known = ", ".join(family) if family else f"{min(RULES)} to {max(RULES)}"
        raise UsageError(f"no finding {identifier!r}", f"there are: {known} (leakaudit explain lists all)")
    return found


def judge(evidence: Evidence) -> list[FindingEntry]:
    """All findings, the most severe first, then by id."""
    found = [_entry(r, item) for r in RULES.values() for item in r.judge(evidence)]
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), f.id))


Scored = tuple[AttackEntry, VictimResult, SampleResult]
"""A sample as an attack recovered it, with the attack and the victim."""


def samples_of(attacks: Sequence[AttackEntry]) -> list[Scored]:
    """Every scored sample with its attack and victim, without the yardsticks that no attacker could run."""
    return [(a, v, s) for a in attacks if not a.upper_bound for v in a.results for s in v.samples]


def closest(scored: Sequence[Scored]) -> Scored | None:
    """The sample that is nearest to its original, as the domain's measure has it; ``None`` where there is none.

    An exact reconstruction has no number, and none is nearer.
    """

    def nearness(item: Scored) -> float:
        return float("inf") if item[2].closeness is None else item[2].closeness

    return max(scored, key=nearness, default=None)


def _entry(origin: Rule, found: Found) -> FindingEntry:
    return FindingEntry(
        id=origin.id,
        title=origin.title,
        severity=found.severity,
        confidence=found.confidence,
        message=found.message,
        evidence=found.evidence,
        remedy=found.remedy or origin.remedy,
    )
