"""The verdict: at least (what the attacks showed), at most (only with an accounted defence), assumed."""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.findings import SEVERITIES, samples_of
from leakaudit.report.document import AttackEntry, FindingEntry, ProtocolSection, Verdict

NO_UPPER_BOUND = "No upper bound. Failure of these attacks is not evidence of safety."


def conclude(
    findings: list[FindingEntry], attacks: list[AttackEntry], protocol: ProtocolSection, preset: str
) -> Verdict:
    """Combine findings into the three statements. Never says "safe"."""
    scored = samples_of(attacks)
    leaked = [s for _, _, s in scored if s.leaked]
    worst = min(findings, key=lambda f: SEVERITIES.index(f.severity), default=None)
    attacked = len({s.index for _, _, s in scored})
    hit = len({s.index for s in leaked})
    names = ", ".join(a.title for a in attacks if a.status == "run")
    if leaked:
        status, headline = (
            "LEAKS (measured)",
            f"{hit} of {attacked} private samples can be reconstructed from one update",
        )
    elif scored:
        status, headline = "NOT SHOWN (budget)", f"No reconstruction was shown with the {preset!r} budget"
    else:
        status, headline = "INCONCLUSIVE", "No attack ran, so nothing was shown"
    return Verdict(
        status=status,
        severity=worst.severity if worst else "none",
        confidence=worst.confidence if worst else "estimated",
        headline=headline,
        at_least=_at_least(leaked, attacked, hit, names),
        at_most=NO_UPPER_BOUND,
        assumed=_assumptions(protocol, preset),
    )


def _at_least(leaked: Sequence[object], attacked: int, hit: int, names: str) -> str:
    if not names:
        return "Nothing: no attack ran."
    if not leaked:
        return f"Nothing beyond the labels: {names} stayed at the floors for all {attacked} sample(s) attacked."
    return f"{hit} of {attacked} samples, reconstructed by {names} from the update, the model and the batch size alone."


def _assumptions(protocol: ProtocolSection, preset: str) -> list[str]:
    samples = "one sample" if protocol.batch_size == 1 else f"{protocol.batch_size} samples"
    return [
        "Threat model B: an honest-but-curious server that knows the model, its weights, loss and input normalisation.",
        f"FedSGD: the client shares the full, undefended gradient of {samples}, computed in {protocol.mode} mode.",
        "Labels are inferred from the update, not given.",
        f"Budget: preset {preset!r}; a stronger or longer attack may recover more.",
        "The weights are those in the file; leakage changes during training.",
    ]
