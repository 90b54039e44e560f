"""How private images appear in a report: as they are, blurred beyond recognition, or not at all.

Blurred means a mosaic of 4 × 4 averages, drawn smoothly: the colours of regions stay, a face or a digit does not.
A mosaic still confirms a guess to whoever holds candidates, so ``none`` is the choice for what must not be shown. Texts
have no such middle: below ``full`` their tokens are left out.
Labels, scores and hashes stay in every case.
"""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np

from leakaudit.document.schema import AttackEntry, Report, SampleResult, SnapshotEntry, VictimResult

Level = Literal["full", "blurred", "none"]
LEVELS: tuple[Level, ...] = ("full", "blurred", "none")
CELLS = 4
"""Averages per side that are left of a blurred image."""
LARGEST = 96
"""Pixels per side of a blurred image; more would only cost space."""


def redact(report: Report, level: Level) -> Report:
    """The report with its images at this level; a report that holds less already is never given more back."""
    if level == "full" or LEVELS.index(level) <= LEVELS.index(report.evidence):
        return report
    attacks = [_attack(attack, level) for attack in report.attacks]
    return report.model_copy(update={"attacks": attacks, "evidence": level})


def _attack(attack: AttackEntry, level: Level) -> AttackEntry:
    return attack.model_copy(update={"results": [_victim(result, level) for result in attack.results]})


def _victim(result: VictimResult, level: Level) -> VictimResult:
    samples = [_sample(sample, level) for sample in result.samples]
    snapshots = [] if level == "none" else [_snapshot(entry) for entry in result.snapshots]
    return result.model_copy(update={"samples": samples, "snapshots": snapshots})


def _sample(sample: SampleResult, level: Level) -> SampleResult:
    names = ("original_png", "reconstruction_png")
    hidden: dict[str, object] = {"original": [], "recovered": [], "found": [], "words": {}}
    tokens = None if sample.tokens is None else sample.tokens.model_copy(update=hidden)
    pictures = {name: blur(uri) if (uri := getattr(sample, name)) and level == "blurred" else None for name in names}
    return sample.model_copy(update={**pictures, "tokens": tokens})


def _snapshot(entry: SnapshotEntry) -> SnapshotEntry:
    return entry.model_copy(update={"images_png": [blur(uri) for uri in entry.images_png]})


def blur(uri: str) -> str:
    """A PNG data URI of which only 4 × 4 averages are left."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    size = (min(image.width, LARGEST), min(image.height, LARGEST))
    array = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    rows = np.array_split(array, CELLS, axis=0)
    means = [[cell.mean((0, 1)) for cell in np.array_split(row, CELLS, axis=1)] for row in rows]
    stream = io.BytesIO()
    Image.fromarray(np.round(means).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(
        stream, format="PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
