"""The compliance annex as data: scope, configuration, residual risk, and what frameworks the evidence speaks to.

It names what an audit contributes to each framework and claims no more: a mapping is no finding of conformity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, ClaimEntry, DefenceEntry, Report
from leakaudit.document.status import RunStatus
from leakaudit.document.threat_models import BEYOND, scope
from leakaudit.report.views.cells import Cell, Fact, Table
from leakaudit.report.views.residual import residual_risk
from leakaudit.report.wording import MISSING, clip, plain, short, words

SIGN_OFF = ("Audited by", "Reviewed by (model owner)", "Reviewed by (data protection)")

MAPPING = (
    (
        "GDPR Art. 4(1) and Recital 26",
        "Whether data relate to an identifiable person, by means reasonably likely to be used such as singling out",
        "Whether an update singles out the samples behind it; an audit without a leak makes no update anonymous",
    ),
    (
        "EDPB Opinion 28/2024 on AI models",
        "“All the means reasonably likely to be used”; the likelihood of extracting personal data has to be "
        "insignificant",
        "A measured likelihood for some of these means, on these samples; whether it is insignificant is for the "
        "controller to judge",
    ),
    (
        "GDPR Art. 5(1)(f) and 32",
        "Integrity and confidentiality; security of processing appropriate to the risk, tested regularly",
        "A repeatable test of confidentiality of what clients share, with controls that show that it can fail",
    ),
    (
        "GDPR Art. 25",
        "Data protection by design and by default",
        "The effect of changes to the model and of defences, before a training begins",
    ),
    (
        "GDPR Art. 35",
        "Data protection impact assessment: risks, and measures against them",
        "Measured evidence on one risk, whether updates disclose personal data, and the remedies that were tried",
    ),
    (
        "NIST SP 800-226 (6 March 2025)",
        "Evaluating claims of differential privacy: unit, trust model, accounting, hazards",
        "The table of privacy claims above, where a defence or a claim was given",
    ),
    (
        "NIST AI 100-2 e2025 (adversarial machine learning: a taxonomy)",
        "Privacy attacks: data reconstruction",
        "Reconstruction attacks on one shared update, with floors and controls",
    ),
    (
        "OWASP Machine Learning Security Top 10, ML03:2023",
        "Model inversion attack",
        "Which samples were recovered from the model's update, by which method, at what cost",
    ),
    (
        "MITRE ATLAS AML.TA0010 and AML.T0024.001 (closest, not exact)",
        "Exfiltration; inverting a model through its inference interface",
        "Inversion of a training update, where ATLAS describes inversion by queries; near it, not the same",
    ),
    (
        "EU AI Act Art. 15(5)",
        "Resilience against attacks on confidentiality, among others, of high-risk systems; as published it applies "
        "from 2 August 2026, for products of Annex I from 2 August 2027 (check before relying on it)",
        "A repeatable test of one class of such attacks, with seed, versions and hashes",
    ),
    (
        "prEN 18282 (draft)",
        "Cybersecurity of AI systems; a draft, so no requirement yet",
        "A test of one attack class that the draft's subject covers",
    ),
    (
        "EDPS TechDispatch 1/2025 (federated learning)",
        "Leakage from gradients and model updates",
        "The leakage from updates of this model, measured",
    ),
)
TRUST = {
    "sample": "the client that adds the noise is trusted; whoever sees its update is not",
    "client": "whoever adds the noise is trusted; all of one client's samples are hidden together",
}
"""Whom the guarantee takes to be honest, by its unit."""


@dataclass(frozen=True)
class Annex:
    """What the annex shows."""

    scope: Table
    facts: list[Fact]
    controls: str
    mapping: Table
    privacy: Table
    residual: list[str]
    sign_off: tuple[str, ...]


def build_annex(report: Report) -> Annex:
    """The annex of a report."""
    return Annex(
        scope=_scope(report.attacks),
        facts=_facts(report),
        controls=_controls(report),
        mapping=_mapping(),
        privacy=privacy_table(report),
        residual=[clip(item, 600) for item in residual_risk(report, named=False)],
        sign_off=SIGN_OFF,
    )


def _scope(attacks: Sequence[AttackEntry]) -> Table:
    columns = (("Threat model", False), ("Attacker", False), ("Executed", False), ("Not executed", False))
    table = Table("scope", "Scope by threat model", columns)
    for letter, attacker in scope().items():
        here = [attack for attack in attacks if attack.threat_model == letter]
        ran = [_titled(attack) for attack in here if attack.status is RunStatus.RUN]
        left = [_titled(attack) for attack in here if attack.status is not RunStatus.RUN]
        if not here:
            left = ["out of scope of this tool" if letter == BEYOND else "no attack of this letter exists here"]
        table.add([letter, attacker, "; ".join(ran) or MISSING, Cell("; ".join(left) or MISSING)])
    return table


def _titled(attack: AttackEntry) -> str:
    bound = " (a yardstick)" if attack.upper_bound else ""
    return f"{short(attack.title)}{bound}"


def _mapping() -> Table:
    columns = (("Framework", False), ("What it names", False), ("What this report contributes", False))
    table = Table("mapping", "Mapping to frameworks", columns)
    for row in MAPPING:
        table.add([Cell(text) for text in row])
    return table


def privacy_table(report: Report) -> Table:
    """A row per defence and claim, in the terms of NIST SP 800-226; empty where neither was given."""
    columns = (
        ("Defence or claim", False), ("Unit of privacy", False), ("Trust model", False), ("Accountant", False),
        ("Hazards found", False),
    )  # fmt: skip
    table = Table("privacy", "Privacy claims, in the terms of NIST SP 800-226", columns)
    for defence in report.defences:
        bound, told = defence.accounting, clip(defence.accounting_reason, 200) or "no guarantee is accounted"
        unit = trust = MISSING
        if bound is not None:
            epsilon = MISSING if bound.epsilon is None else f"{bound.epsilon:.3g}"
            unit, trust = f"one {bound.unit}", TRUST[bound.unit]
            told = f"dp-accounting: ε = {epsilon} at δ = {bound.delta:g} over {count(bound.steps, 'step')}"
        table.add([clip(defence.text, 120), unit, trust, told, _hazards(defence)])
    for claim in report.claims:
        table.add([f"{clip(claim.text, 120)} (claimed)", MISSING, MISSING, "held against the update", _hazards(claim)])
    return table


def _hazards(given: DefenceEntry | ClaimEntry) -> str:
    """Checks that failed and misuses that were found."""
    failed = [f"{check.what}: claimed {check.expected}, measured {check.measured}" for check in given.checks
              if not check.holds]  # fmt: skip
    return clip("; ".join([*failed, *(misuse.told for misuse in given.misuses)]), 600) or "none found"


def configuration_hash(report: Report) -> str:
    """SHA-256 over what decides the numbers: seed, preset, protocol, defences and every attack's settings."""
    parts = {
        "seed": report.seed,
        "preset": report.preset,
        "device": report.device,
        "protocol": report.protocol.model_dump(mode="json"),
        "batch": [report.batch.batch_size, report.batch.victims, report.batch.mean, report.batch.std],
        "defences": [defence.text for defence in report.defences],
        "attacks": {attack.name: attack.hyperparameters for attack in report.attacks},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _facts(report: Report) -> list[Fact]:
    return [
        Fact("Configuration SHA-256", configuration_hash(report), "files and their hashes: first page", code=True),
        Fact("Leaked", *_share(report)),
        Fact("Images in this report", report.evidence, "full, blurred or none"),
    ]


def leak_share(report: Report) -> tuple[int, int]:
    """How many distinct samples leaked, of how many attacked, without declared upper bounds."""
    scored = [s for a in report.attacks if not a.upper_bound for r in a.results for s in r.samples]
    return len({s.index for s in scored if s.leaked}), len({s.index for s in scored})


def _share(report: Report) -> tuple[str, str]:
    leaked, attacked = leak_share(report)
    if not attacked:
        return MISSING, "no sample was attacked"
    interval = report.verdict.interval
    if interval is None:
        return f"{leaked} of {attacked} samples", clip(report.verdict.interval_reason)
    low, high = interval
    return f"{leaked} of {attacked} samples", f"95 % interval of the share: {low:.0%} to {high:.0%} (Clopper-Pearson)"


def _controls(report: Report) -> str:
    if not report.controls:
        return "No controls were run."
    passed = sum(control.passed is True for control in report.controls)
    failed = [f"{words(c.kind)} ({clip(c.title or c.attack, 60)})" for c in report.controls if c.passed is False]
    open_ = len(report.controls) - passed - len(failed)
    text = f"{passed} of {len(report.controls)} controls passed"
    text += f"; failed: {', '.join(failed)}" if failed else ""
    return text + (f"; {plain(open_)} could not be run." if open_ else ".")
