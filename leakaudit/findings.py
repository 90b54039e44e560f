"""Findings: what the evidence means, under stable ids.

A rule is a function from the evidence to a finding or nothing. Its id never changes meaning; its docstring is its
documentation. Severity says what leaked, confidence how sure that is; the worst sample decides, not the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leakaudit.report.document import (
    AttackEntry,
    Confidence,
    FindingEntry,
    ProtocolSection,
    RankSection,
    SampleResult,
    Severity,
    TargetSection,
    VictimResult,
)

SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low", "none")
INFORMATION = frozenset({"LA907", "LA908", "LA909", "LA911", "LA940"})
"""Fidelity notes that state a fact without being a finding: a check that passed, a head that was found."""
RECOGNISABLE_SSIM = 0.8
RECOGNISABLE_PSNR = 25.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the rules look at; sections of the report."""

    target: TargetSection
    protocol: ProtocolSection
    rank: RankSection
    attacks: list[AttackEntry]


Rule = Callable[[Evidence], "FindingEntry | None"]
RULES: dict[str, tuple[str, Rule]] = {}


def rule(identifier: str, title: str) -> Callable[[Rule], Rule]:
    """Register a rule under its id."""

    def register(function: Rule) -> Rule:
        RULES[identifier] = (title, function)
        return function

    return register


def judge(evidence: Evidence) -> list[FindingEntry]:
    """All findings, the most severe first, then by id."""
    found = [finding for _, function in RULES.values() if (finding := function(evidence)) is not None]
    found += [
        _finding(note.id, "low", "certified", note.message, {}, note.hint or "Export the model as it is trained.")
        for note in evidence.target.fidelity
        if note.id not in INFORMATION
    ]
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), f.id))


def at_or_above(findings: list[FindingEntry], level: str) -> list[FindingEntry]:
    """The findings at or above a severity; ``never`` selects none."""
    if level == "never":
        return []
    limit = SEVERITIES.index(level)
    return [f for f in findings if not f.suppressed and SEVERITIES.index(f.severity) <= limit]


def samples_of(attacks: list[AttackEntry]) -> list[tuple[AttackEntry, VictimResult, SampleResult]]:
    """Every scored sample with its attack and victim, without the yardsticks that no attacker could run."""
    return [(a, v, s) for a in attacks if not a.upper_bound for v in a.results for s in v.samples]


def _finding(
    identifier: str, severity: Severity, confidence: Confidence, message: str, evidence: dict[str, object], remedy: str
) -> FindingEntry:
    title = RULES[identifier][0] if identifier in RULES else "Fidelity of the audited model"
    return FindingEntry(
        id=identifier,
        title=title,
        severity=severity,
        confidence=confidence,
        message=message,
        evidence=evidence,
        remedy=remedy,
    )


@rule("LA101", "The architecture allows a unique reconstruction")
def unique_recovery(evidence: Evidence) -> FindingEntry | None:
    """Rank analysis finds enough independent equations in one update to determine the input of a single sample.

    This is a property of the architecture, whether or not an attack succeeded. It is computed from shapes, so it is an
    estimate for the weights at hand.
    """
    rank = evidence.rank
    if rank.risk != "high":
        return None
    deficient = [layer.name for layer in rank.layers if layer.deficit]
    return _finding(
        "LA101",
        "medium",
        "estimated",
        f"Rank analysis: {rank.level or 'high risk'}. One update of one sample carries enough independent equations to "
        "determine the input.",
        {"level": rank.level, "score": rank.score, "deficient_layers": deficient},
        "Larger batches and fewer parameters near the input (stride, fewer filters) lower this; see the rank table. "
        "It is no substitute for a defence.",
    )


@rule("LA201", "Private samples were reconstructed by gradient matching")
def reconstructed_by_search(evidence: Evidence) -> FindingEntry | None:
    """An optimisation attack recovered samples that beat every floor and are recognised among the batch file.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    return _reconstructed("LA201", "optimisation", evidence)


@rule("LA202", "Private samples were computed from the update in closed form")
def reconstructed_by_algebra(evidence: Evidence) -> FindingEntry | None:
    """A closed-form attack computed samples that beat every floor and are recognised among the batch file.

    It takes seconds and no luck. Certified when the regenerated update agrees to rounding and no other reconstruction
    near it does. Critical when a reconstruction is close to the original, high otherwise.
    """
    return _reconstructed("LA202", "closed form", evidence)


def _reconstructed(identifier: str, family: str, evidence: Evidence) -> FindingEntry | None:
    scored = samples_of([a for a in evidence.attacks if a.family == family])
    leaked = [(a, v, s) for a, v, s in scored if s.leaked]
    if not leaked:
        return None
    attack, victim, best = max(leaked, key=lambda item: _closeness(item[2]))
    close = (best.ssim or 0) >= RECOGNISABLE_SSIM or best.psnr is None or best.psnr >= RECOGNISABLE_PSNR
    distinct, total = len({s.index for _, _, s in leaked}), len({s.index for _, _, s in scored})
    certified = any(v.certified for _, v, _ in leaked)
    psnr = "exact" if best.psnr is None else f"{best.psnr:.1f} dB PSNR, {best.margin:.1f} dB above its best floor"
    return _finding(
        identifier,
        "critical" if close else "high",
        "certified" if certified else "measured",
        f"{distinct} of {total} samples were reconstructed from the update alone; "
        f"the closest by {attack.title}: {psnr}.",
        {
            "samples_leaked": distinct,
            "samples_attacked": total,
            "attack": attack.name,
            "victim": victim.victim,
            "psnr": best.psnr,
            "ssim": best.ssim,
            "margin": best.margin,
        },
        "Do not share single-step updates of such small batches in the clear: aggregate securely over many clients, or "
        "clip and add accounted noise (DP-SGD), and audit again.",
    )


def _closeness(sample: SampleResult) -> float:
    return float("inf") if sample.psnr is None else sample.psnr


@rule("LA301", "Labels can be read from the update")
def labels_recovered(evidence: Evidence) -> FindingEntry | None:
    """The classes in the batch were inferred from the last layer's gradient, better than by chance.

    Labels can be sensitive in themselves (a diagnosis), and every reconstruction attack profits from them.
    """
    results = {v.victim: v.labels for a in evidence.attacks for v in a.results}
    total = sum(len(labels.true) for labels in results.values())
    correct = sum(labels.correct for labels in results.values())
    if not total or correct / total <= max(0.5, 2 / evidence.target.classes):
        return None
    return _finding(
        "LA301",
        "medium",
        "measured",
        f"{correct} of {total} labels were inferred correctly from the update.",
        {"correct": correct, "total": total},
        "Share no gradient of the last layer in the clear, or use larger batches; label smoothing does not help.",
    )


@rule("LA401", "Every update is computed from a single sample")
def single_sample(evidence: Evidence) -> FindingEntry | None:
    """With one sample per update nothing hides it: its label is exact and its pixels are easiest to find."""
    if evidence.protocol.batch_size != 1:
        return None
    return _finding(
        "LA401",
        "low",
        "certified",
        "The protocol shares the gradient of one sample at a time, the easiest case for an attacker.",
        {"batch_size": 1},
        "Use a larger --batch-size if the client really does, and audit again.",
    )
