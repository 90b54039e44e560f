"""The document of a sweep, schema version 1: ``sweep.json``, one entry for each cell.

Keys are stable; additions only. Every field declares what it may show below ``--evidence full``, as those of a report
do (`leakaudit.document.disclosure`); the reason of a cell is written for the evidence level of the sweep.
"""

from __future__ import annotations

import json

from pydantic import Field

from leakaudit.document.disclosure import Public
from leakaudit.document.schema import HASH_KEY, Section, Severity, Tool, self_hash
from leakaudit.document.status import CellStatus, VerdictStatus

SWEEP_VERSION = 1


class CellEntry(Section):
    """One cell: what was audited, and what came of it."""

    number: Public[int] = Field(description="place in the sweep, from 1")
    model: Public[str]
    mode: Public[str]
    defence: Public[str] = Field(description="as on the command line; none without one")
    seed: Public[int]
    options: Public[dict[str, str]] = Field(default_factory=dict, description="what else differs from cell to cell")
    status: Public[CellStatus]
    reason: Public[str] = Field(default="", description="why there is no report")
    verdict: Public[VerdictStatus | None] = None
    severity: Public[Severity | None] = None
    failing: Public[list[str]] = Field(default_factory=list, description="findings that the policy fails on")
    leaked: Public[int | None] = Field(default=None, description="samples")
    samples: Public[int | None] = Field(default=None, description="samples that were attacked")
    interval: Public[list[float] | None] = Field(
        default=None, description="Clopper-Pearson interval (95 %) of the share that leaks; needs 5 samples"
    )
    closest: Public[float | None] = Field(
        default=None, description="the metric of the closest reconstruction; null where that is exact, or there is none"
    )
    metric: Public[str] = Field(default="", description="which metric that is: the first of the domain")
    told: Public[str] = Field(default="", description="how near the closest reconstruction is, in words")
    attack: Public[str] = Field(default="", description="the attack that it came from")
    seconds: Public[float] = Field(default=0.0, description="that the audit took")
    report: Public[str | None] = Field(default=None, description="folder of the full report, beside this file")
    key: Public[str] = Field(description="hash of all that the result depends on: its name in the store")


class SweepDocument(Section):
    """A sweep: how it was run, and its cells."""

    sweep_version: Public[int] = SWEEP_VERSION
    tool: Public[Tool]
    created: Public[str]
    name: Public[str]
    seconds: Public[float] = Field(default=0.0, description="of this run; cells of earlier ones were taken as they are")
    runner: Public[str]
    workers: Public[int]
    threads: Public[int] = Field(description="of each worker; the number changes the last bits of every sum")
    partial: Public[str] = Field(default="", description="why not all cells were tried, or empty")
    axes: Public[dict[str, list[str]]] = Field(description="values of every axis, in their order")
    cells: Public[list[CellEntry]]

    def to_json(self) -> str:
        """The document as indented JSON with a hash over itself."""
        document = json.loads(self.model_dump_json())
        return json.dumps({**document, HASH_KEY: self_hash(document)}, indent=2, ensure_ascii=False) + "\n"

    def count(self, *statuses: CellStatus) -> int:
        """How many cells ended so."""
        return sum(cell.status in statuses for cell in self.cells)

    @property
    def exit_code(self) -> int:
        """130 where cells were not tried, 3 where one has no report, 1 where the policy fails one, 5 inconclusive."""
        if self.partial:
            return 130
        if any(cell.status.unaudited for cell in self.cells):
            return 3
        if any(cell.failing for cell in self.cells):
            return 1
        return 5 if any(cell.verdict is not None and cell.verdict.inconclusive for cell in self.cells) else 0
