"""Identity of a finding across runs: its rule and the audited architecture, not the weights or the file's name.

A model that is trained further keeps its alerts; one whose layers change gets new ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from leakaudit.document.schema import FindingEntry, TargetSection


def architecture_hash(target: TargetSection) -> str:
    """SHA-256 of layers, shapes and sizes."""
    parts = [target.layers, target.input_shape, target.classes, target.parameters, target.trainable_tensors]
    parts += [] if target.task == "single-label" else [target.task]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def fingerprints(target: TargetSection, findings: Sequence[FindingEntry]) -> list[str]:
    """One fingerprint per finding, ``hash:n``; n counts findings of the same rule."""
    architecture = architecture_hash(target)
    seen: Counter[str] = Counter()
    marks = []
    for finding in findings:
        seen[finding.id] += 1
        mark = hashlib.sha256(f"{finding.id} {architecture}".encode()).hexdigest()[:32]
        marks.append(f"{mark}:{seen[finding.id]}")
    return marks
