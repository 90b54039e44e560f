"""What the rules LA90x to LA94x share: where the audited network may differ from the one that clients train.

`leakaudit.target` writes these notes while it reads a model file. Some state a fact without being a finding: a check
that passed, a head that was found; their worst severity is ``none``. The rules are in three files:

* LA90x and LA91x, what the file holds: `leakaudit.findings.rules.exports`;
* LA92x, what was assumed of it: `leakaudit.findings.rules.assumptions`;
* LA93x and LA94x, what running it showed: `leakaudit.findings.rules.probes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leakaudit.document.schema import FidelityEntry, Severity
from leakaudit.findings.registry import Evidence, Found

EXPORT = (
    'Export with torch.onnx.export(model.eval(), (x,), "model.onnx", dynamo=True, optimize=False), which keeps '
    "BatchNorm, names and weights"
)
"""The way out that several rules name."""
DEPARTURES = frozenset({"LA900", "LA901", "LA916", "LA918", "LA933"})
"""Notes after which the audited update may not be the client's: the verdict says so first."""


def departures(notes: Sequence[FidelityEntry]) -> list[FidelityEntry]:
    """Those of a model's notes after which its update may not be the client's."""
    return [note for note in notes if note.id in DEPARTURES]


def noted(evidence: Evidence, identifier: str, severity: Severity = "low") -> Iterator[Found]:
    """Notes with this id as they are."""
    yield from (
        Found(severity, "certified", note.message) for note in evidence.target.fidelity if note.id == identifier
    )


def changed(evidence: Evidence, identifier: str) -> Iterator[Found]:
    """Notes on what an exporter did, each with the way out that it names for this exporter."""
    for note in evidence.target.fidelity:
        if note.id == identifier:
            yield Found("medium", "certified", note.message, remedy=f"{note.hint[:1].upper()}{note.hint[1:]}.")
