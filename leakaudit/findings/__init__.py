"""Findings: what the evidence means, under stable ids.

===== ======================================================================
LA1xx architecture: what the shapes alone allow (`leakaudit.findings.rules.architecture`)
LA2xx reconstruction: which family of attacks recovered samples (`leakaudit.findings.rules.reconstruction`)
LA3xx labels (`leakaudit.findings.rules.labels`)
LA4xx protocol: how the client makes and shares its update (`leakaudit.findings.rules.protocol`)
LA5xx defences: whether they held (`leakaudit.findings.rules.defences`), misused (`leakaudit.findings.rules.practice`)
LA90x to LA94x fidelity: where the audited network may not be the trained one (`leakaudit.findings.rules.fidelity`)
LA95x audit quality: what weakens this report (`leakaudit.findings.rules.quality`)
===== ======================================================================

An id never changes its meaning. A rule's docstring is its page, in ``leakaudit explain`` as in the report. Severity
says what leaked, confidence how sure that is; the worst sample decides, not the mean.
"""

from leakaudit.findings.registry import (
    RULES,
    SEVERITIES,
    Evidence,
    Found,
    Rule,
    closest,
    judge,
    rule,
    rule_named,
    samples_of,
)
from leakaudit.findings.rules import (
    architecture,
    assumptions,
    defences,
    exports,
    labels,
    practice,
    probes,
    protocol,
    quality,
    reconstruction,
)

__all__ = [
    "RULES",
    "SEVERITIES",
    "Evidence",
    "Found",
    "Rule",
    "architecture",
    "assumptions",
    "closest",
    "defences",
    "exports",
    "judge",
    "labels",
    "practice",
    "probes",
    "protocol",
    "quality",
    "reconstruction",
    "rule",
    "rule_named",
    "samples_of",
]
