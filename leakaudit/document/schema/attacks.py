"""Of the report: attacks with what they were given and their results on every victim, and the controls."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from leakaudit.document.disclosure import Picture, Private, Public, limited
from leakaudit.document.schema.samples import SampleResult
from leakaudit.document.schema.section import Section
from leakaudit.document.status import AuxiliarySource, ControlStatus, Cut, RunStatus
from leakaudit.domains.specs import ALL

CONTROL_NUMBERS = limited(
    *ALL, "cases", "iterations", "parameters", "passing_as_leak", "reached", "reference", "seconds"
)


class HistoryPoint(Section):
    """The objective after an iteration."""

    iteration: Public[int]
    objective: Public[float | None]
    match: Public[float | None]


class SnapshotEntry(Section):
    """Reconstructions of a victim's samples part of the way."""

    fraction: Public[float]
    images_png: Picture[list[str]]


class LabelResult(Section):
    """Labels of one victim's batch, as multisets in ascending order; below full evidence their counts alone.

    The update does not tell which sample has which label, so a label is right as a member of the multiset, not by
    place.
    """

    true: Private[list[int]]
    inferred: Private[list[int]]
    correct: Public[int] = Field(
        description="how many are right, as the task counts: of one class the size of the intersection of both, of "
        "several the right answers of yes and no, of numbers those within one per cent; 0 where merely assumed"
    )
    chance: Public[float | None] = Field(
        default=None, description="share that the best guess without the update has right; null where it is 1/classes"
    )
    rows: Private[list[list[float]] | None] = Field(
        default=None, description="labels of several classes or numbers, a row per sample in the order of the batch"
    )
    inferred_rows: Private[list[list[float]] | None] = Field(
        default=None, description="the same as inferred; fractions say how many samples of the batch have a class"
    )
    assumed: Public[bool] = Field(
        default=False, description="nothing in the update told them: they are no inference, and none counts as right"
    )
    method: Public[str] = ""
    total: Public[int | None] = Field(default=None, description="how many labels the batch has")
    known: Public[bool] = Field(default=True, description="whether the true labels were there to compare with")
    soft: Private[list[float] | None] = Field(
        default=None,
        description="class probabilities of one sample, where the update shows its label to be no one class",
    )
    true_soft: Private[list[list[float]] | None] = Field(
        default=None, description="class probabilities of each sample in the order of the batch, where labels are soft"
    )

    @model_validator(mode="after")
    def _counted(self) -> LabelResult:
        """Count the labels while they are there; reports of older versions held no total."""
        if self.total is None:
            self.total = len(self.true)
        if self.inferred_total is None:
            self.inferred_total = len(self.inferred)
        return self

    inferred_total: Public[int | None] = Field(default=None, description="how many were inferred")

    @property
    def inferred_count(self) -> int:
        """How many labels were inferred, also where they are left out."""
        return len(self.inferred) if self.inferred_total is None else self.inferred_total

    @property
    def count(self) -> int:
        """How many labels the batch has."""
        return len(self.true) if self.total is None else self.total


class VictimResult(Section):
    """One attack on one victim batch."""

    victim: Public[int]
    seed: Public[int]
    residual: Public[float | None]
    residual_reason: Public[str] = ""
    residuals: Public[dict[str, float | None]] = Field(
        default_factory=dict, description="per tensor, relative to it; null where the observed tensor is zero"
    )
    match: Public[float | None] = None
    certified: Public[bool | None] = None
    certified_reason: Public[str] = ""
    seconds: Public[float]
    iterations: Public[int] = 0
    stopped: Public[str] = ""
    cuts: Public[list[Cut]] = Field(
        default_factory=list, description="what time or an interruption took from what its settings say"
    )
    labels: Public[LabelResult]
    samples: Public[list[SampleResult]]
    history: Public[list[HistoryPoint]] = Field(default_factory=list)
    snapshots: Public[list[SnapshotEntry]] = Field(default_factory=list)
    notes: Public[list[str]] = Field(default_factory=list)


class Comparison(Section):
    """Results of the attack that another one extends, on the same victims, so that its addition is not overrated."""

    name: Public[str]
    title: Public[str]
    hyperparameters: Public[dict[str, Any]] = Field(default_factory=dict)
    reason: Public[str] = Field(default="", description="what time or memory cost it")
    cut: Public[Cut | None] = Field(default=None, description="victims that time or memory cost it")
    in_ledger: Public[bool] = Field(default=False, description="it was asked for too, and is not run twice")
    gain: Public[float | None] = Field(
        default=None,
        description="what the attack adds to this one, in dB, the median over samples on which both had all their "
        "steps; null where there are none, or an error has no unit",
    )
    seconds: Public[float] = 0.0
    results: Public[list[VictimResult]] = Field(default_factory=list)


class AuxiliaryEntry(Section):
    """What an attacker of threat model D was given to learn from."""

    source: Public[AuxiliarySource]
    samples: Public[int] = Field(
        description="to learn from; of a generator, those that it made as a floor of every score"
    )
    share: Public[float | None] = Field(default=None, description="of the batch file, where they come from it")

    @property
    def rare(self) -> bool:
        """Whether not everybody has such samples: anyone can generate some."""
        return self.source is not AuxiliarySource.GENERATED

    @property
    def told(self) -> str:
        """Their number, origin and what was looked at, without a full stop."""
        if self.source is AuxiliarySource.GIVEN:
            return f"{self.samples} public samples"
        if self.source is AuxiliarySource.GENERATOR:
            return "a generator of similar samples, the user's own; what it learnt from was not looked at"
        if self.source is AuxiliarySource.GENERATED:
            return f"{self.samples} generated samples, which are nobody's and of no one's distribution"
        share = "" if self.share is None else f" ({self.share:.0%} of it)"
        return (
            f"{self.samples} samples of the batch file{share} that no victim holds, none of them equal to a victim's; "
            "near-duplicates were not looked for"
        )


class AttackEntry(Section):
    """One attack: run, or why not."""

    name: Public[str]
    title: Public[str]
    status: Public[RunStatus]
    reason: Public[str] = ""
    cut: Public[Cut | None] = Field(default=None, description="victims that time or memory cost it")
    family: Public[Literal["closed form", "optimisation"]] = "optimisation"
    finding: Public[str] = Field(default="", description="id that its success is reported under")
    threat_model: Public[str]
    upper_bound: Public[bool] = Field(default=False, description="given what no attacker has; never evidence of a leak")
    given: Public[dict[str, Any]] = Field(default_factory=dict, description="everything that the attacker was given")
    auxiliary: Public[AuxiliaryEntry | None] = Field(default=None, description="samples that it learnt from, if any")
    in_passing: Public[bool] = Field(
        default=False, description="tried with less effort since nobody asked for it: its failure says nothing"
    )
    hyperparameters: Public[dict[str, Any]] = Field(default_factory=dict)
    planned: Public[int | None] = Field(
        default=None, description="iterations that its settings ask for on a victim; null for algebra"
    )
    reference: Public[str] = ""
    seconds: Public[float] = 0.0
    results: Public[list[VictimResult]] = Field(default_factory=list)
    beside: Public[Comparison | None] = Field(default=None, description="the attack that this one extends, at its best")


class ControlEntry(Section):
    """One control run."""

    kind: Public[Literal["positive", "negative", "prior_only", "ladder"]]
    attack: Public[str] = Field(description="name of the attack")
    title: Public[str] = ""
    passed: Public[bool | None] = Field(description="null where the control could not run; the detail says why")
    detail: Public[str]
    numbers: Annotated[dict[str, Any], CONTROL_NUMBERS] = Field(default_factory=dict)
    steps: Public[list[int]] = Field(default_factory=list, description="of a ladder: the numbers of local steps tried")
    recovered: Public[list[bool | None]] = Field(
        default_factory=list, description="whether what is known was recovered at each; null where that is not decided"
    )

    @property
    def reached(self) -> int:
        """K*, the largest number of local steps at which what is known was recovered; 0 for none."""
        return max((steps for steps, found in zip(self.steps, self.recovered, strict=True) if found), default=0)

    @property
    def status(self) -> ControlStatus:
        """What became of it."""
        if self.passed is None:
            return ControlStatus.NOT_RUN
        return ControlStatus.PASSED if self.passed else ControlStatus.FAILED
