"""The contract of a measure: how reconstructions of a domain are matched to the private samples, and what they score.

A measure is private: it holds the whole batch file, for floors and for telling samples apart. Reconstructions come in
any order, so they are matched one to one to the distinct samples by :meth:`Measure.distance` (Hungarian method) once,
and every metric uses that assignment; samples that a batch repeats share their match. A *floor* is what a guess scores
that knows nothing of the sample; a sample has *leaked* when its reconstruction beats every floor by a margin and
identifies its own sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, Generic, TypeVar, final

import numpy as np
import scipy
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.specs import Spec
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.parts import LEAST_SHARE, Part
from leakaudit.scoring.reidentify import Identification

R = TypeVar("R")
"""A reconstruction as it is scored: values (B, *shape) of images, or what was read of texts."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What a measure may be told.

    Args:
        criterion: When a sample counts as leaked.
        distractors: Further values (M, *shape) to tell samples from, or ``None``.
        lpips_weights: SqueezeNet 1.1 checkpoint for LPIPS; ``None`` looks in torch's hub cache.
        read: Entries (*shape) that the model reads, or ``None`` for all; the others are left out of every score.
    """

    criterion: LeakCriterion = field(default_factory=LeakCriterion)
    distractors: Tensor | None = None
    lpips_weights: Path | None = None
    read: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleScore(ABC):
    """One private sample beside its reconstruction, and whether it leaked.

    Args:
        position: Position in the victim batch.
        reconstruction: Position of the matched reconstruction.
        identification: Whether the sample is the nearest, and among how many.
        leaked: Beats every floor by a margin, and is identified among enough others.
        reason: Why it does not count, or "".
        part: The part of the sample that leaked, where it is not the whole.
    """

    position: int
    reconstruction: int
    identification: Identification
    leaked: bool
    reason: str = ""
    part: Part | None = None

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, float | None]:
        """By the names of the measure's specs; ``None`` where undefined, never an infinite number."""

    @property
    @abstractmethod
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same of every floor, as far as floors have them."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why metrics are undefined, by name."""
        return {}

    @property
    @abstractmethod
    def strength(self) -> float:
        """How far above its floors; minus infinity where undefined."""

    @property
    @abstractmethod
    def closeness(self) -> float:
        """How near to the sample, whatever the floors; infinite where exact."""


class Measure(ABC, Generic[R]):
    """Scores reconstructions of batches drawn from one file.

    Args:
        population: The whole batch file, for floors and re-identification.
    """

    specs: ClassVar[tuple[Spec, ...]]
    """The metrics, in the order in which reports show them."""
    wanted: ClassVar[int] = 0
    """Others of the file below which a report says that telling samples apart was easy; 0 where that is no question."""

    def __init__(self, population: Batch) -> None:
        self.population = population

    @classmethod
    def specs_for(cls, domain: Domain) -> tuple[Spec, ...]:
        """The metrics of a domain's samples."""
        return cls.specs

    @property
    def shown(self) -> tuple[Spec, ...]:
        """The metrics of its own samples."""
        return self.specs

    @classmethod
    @abstractmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> Measure[R]:
        """The measure of a domain's samples.

        Raises:
            UsageError: The judging does not fit the domain.
        """

    @abstractmethod
    def like(self, domain: Domain, population: Batch) -> Measure[R]:
        """A measure as strict as this one, of other samples (those of a bundled network)."""

    @abstractmethod
    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> R:
        """A reconstruction as it is scored, on the CPU."""

    def usable(self, found: R) -> bool:
        """Whether what was recovered can be scored at all, as numbers that are finite."""
        return True

    @abstractmethod
    def distance(self, batch: Batch, found: R) -> np.ndarray[Any, Any]:
        """What the matching minimises (B, K): of every sample of a batch to every reconstruction."""

    @abstractmethod
    def measure(self, guess: Any, truth: Any) -> Any:
        """All metrics of one reconstruction against one sample."""

    @abstractmethod
    def floors(self, batch: Batch, position: int) -> Mapping[str, Any]:
        """Metrics of the guesses that know nothing of a sample of a batch, by name."""

    @abstractmethod
    def identify(self, batch: Batch, position: int, found: R, row: int) -> Identification:
        """Whether a reconstruction points at its own sample among the others."""

    @final
    def score(self, batch: Batch, found: R, prior_only: Sequence[R] = ()) -> list[SampleScore]:
        """Score reconstructions against a drawn batch of B samples.

        Samples that the batch holds several times are told from no other place of it, so all of them are matched to the
        reconstruction of the one; reconstructions are used once otherwise.

        Args:
            batch: The victim; there are no scores where nobody has its samples.
            found: What was recovered, in any order.
            prior_only: What the attack made without the update: one more floor, the best of them.
        """
        if not batch.known:
            return []
        first = first_places(batch.images)
        distinct = sorted(set(first))
        matched = {distinct[i]: j for i, j in assigned(self.distance(batch, found)[distinct])}
        places = [(i, matched[place]) for i, place in enumerate(first) if place in matched]
        return [self.judge(batch, i, found, j, prior_only) for i, j in places]

    @abstractmethod
    def judge(self, batch: Batch, position: int, found: R, row: int, prior_only: Sequence[R]) -> SampleScore:
        """The score of one sample, whose reconstruction is `row` of `found`."""

    def inexact(self, score: SampleScore) -> bool:
        """Whether a sample that was read exactly could not be scored so; known where a score says what is exact."""
        return False

    def enough(self, read: Tensor) -> bool:
        """Whether entries (*shape) that were read of a sample are a finding of their own."""
        return float(read.float().mean()) >= LEAST_SHARE

    @abstractmethod
    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a sample of one batch cannot be told from one of the other."""

    @abstractmethod
    def recognisable(self, score: SampleScore) -> bool:
        """Whether the reconstruction shows the sample itself, not only its outline."""

    def claim(self, score: SampleScore) -> str:
        """What was done to a leaked sample, if not its reconstruction: a sentence over ``{hit}`` of ``{total}``."""
        return ""

    @abstractmethod
    def told(self, score: SampleScore) -> str:
        """How close it is, in words."""

    def told_control(self, score: SampleScore) -> str:
        """The same for a control, which compares with the floors."""
        return self.told(score)

    def summary(self, scores: Sequence[SampleScore]) -> str:
        """The closest of several in words, for a progress line."""
        return self.told(max(scores, key=lambda score: score.closeness))

    @final
    def numbers(self, score: SampleScore) -> dict[str, float | None]:
        """The metrics that controls show."""
        return {spec.name: score.metrics[spec.name] for spec in self.shown if spec.lead}

    def entry(self, batch: Batch, score: SampleScore, found: R) -> dict[str, Any]:
        """What the document holds of a sample beside its metrics, by the names of `SampleResult`."""
        return {}

    def unscored_entry(self, found: R, row: int) -> dict[str, Any]:
        """What the document holds of a reconstruction whose sample nobody has, by the names of `SampleResult`."""
        return {}

    def unscored_claim(self, found: R) -> str:
        """As :meth:`claim`, for such reconstructions."""
        return ""

    def picture(self, values: Tensor) -> str | None:
        """A PNG data URI of one sample's values (*shape), or ``None`` where there is nothing to see."""
        return None


def finite(value: float | None) -> float | None:
    """The value, or ``None`` when it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def first_places(samples: Tensor) -> list[int]:
    """The position (B) at which each of the samples (B, *shape) occurs first: its own, unless it is repeated."""
    seen: dict[bytes, int] = {}
    return [seen.setdefault(sample.contiguous().numpy().tobytes(), i) for i, sample in enumerate(samples.cpu())]


def assigned(distances: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Rows and columns of a matrix (B, K) with the smallest sum, each used once.

    Of one sample and one reconstruction there is nothing to choose, and nothing to import for it.
    """
    if distances.shape == (1, 1) and np.isfinite(distances).all():
        return [(0, 0)]
    rows, columns = scipy.optimize.linear_sum_assignment(distances)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]


def squared_distances(batch: Batch, found: Tensor) -> np.ndarray[Any, Any]:
    """Squared Euclidean distances (B, K) of values."""
    distance = torch.cdist(batch.images.flatten(1).double(), found.flatten(1).double())
    squared: np.ndarray[Any, Any] = distance.square().numpy()
    return squared


def measure_for(domain: Domain, samples: Batch, judging: Judging | None = None) -> Measure[Any]:
    """The measure of a domain's samples: what an audit asks for once, and everything else through it.

    Raises:
        UsageError: The judging does not fit the domain.
    """
    kind: type[Measure[Any]] = resolve_name(domain.measure)
    measure: Measure[Any] = kind.of(domain, samples, judging or Judging())
    return measure


def specs_of(domain: Domain) -> tuple[Spec, ...]:
    """The metrics of a domain's samples."""
    kind: type[Measure[Any]] = resolve_name(domain.measure)
    return kind.specs_for(domain)
