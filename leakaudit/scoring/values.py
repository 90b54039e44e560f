"""What measures of real values have in common: floors, a margin above the best of them, and telling among a gallery.

A sample has *leaked* when its reconstruction beats every floor by a margin and re-identifies it among enough others
(`leakaudit.scoring.reidentify`). Entries that the model never reads are left out of everything.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.document.counting import count
from leakaudit.scoring.base import Measure, SampleScore, finite, squared_distances
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.parts import PartlyRead, claimed, values_of, within
from leakaudit.scoring.reidentify import Gallery, Identification

Found = Tensor | PartlyRead
"""Reconstructions (B, *shape), and what of them is claimed."""


class Scored(Protocol):
    """Metrics of one value against one sample."""

    @property
    def values(self) -> dict[str, float | None]:
        """By name; ``None`` where undefined."""

    @property
    def reasons(self) -> dict[str, str]:
        """Why one is undefined, by name."""


S = TypeVar("S", bound=Scored)


@dataclass(frozen=True, eq=False, kw_only=True)
class ValueScore(SampleScore, Generic[S]):
    """One private sample: its reconstruction's metrics and the floors.

    Args:
        scores: Metrics of the reconstruction.
        floors: Metrics of the guesses that know nothing of the sample, as far as there are.
        margin: Above the best floor in dB; infinite for an exact reconstruction, ``None`` where undefined.
    """

    scores: S
    floors: Mapping[str, S]
    margin: float | None

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Those of the reconstruction, and the margin."""
        return {**self.scores.values, "margin": finite(self.margin)}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same without a margin."""
        return {name: floor.values for name, floor in self.floors.items()}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a metric is undefined."""
        return {**self.scores.reasons, **({"margin": self.margin_reason} if self.margin_reason else {})}

    @property
    def margin_reason(self) -> str:
        """Why there is no finite margin, or ""."""
        if self.margin is None:
            return "a floor reproduces the sample exactly"
        return "" if math.isfinite(self.margin) else "exact reconstruction"

    @property
    def strength(self) -> float:
        """The margin in dB."""
        return -math.inf if self.margin is None else self.margin


class ValueMeasure(Measure[Found], Generic[S]):
    """Scores values (B, *shape) against a population of the same.

    Args:
        population: The whole batch file, for floors and re-identification.
        criterion: When a sample counts as leaked.
        distractors: Further values (M, *shape) to tell samples from, or ``None``.
        read: Entries (*shape) that the model reads, the only ones that count; ``None`` for all.
        altered: Makes altered copies of samples, to make up a number of others; the gallery's own without it.
    """

    wanted: ClassVar[int] = 100
    thing: ClassVar[str]
    """What one sample is called."""
    copies: ClassVar[str]
    """What the altered copies are."""

    def __init__(
        self,
        population: Batch,
        criterion: LeakCriterion | None = None,
        distractors: Tensor | None = None,
        read: Tensor | None = None,
        altered: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        super().__init__(population)
        self.criterion = criterion or LeakCriterion()
        self.read = None if read is None or bool(read.all()) else read
        how = () if altered is None else (altered,)
        self.gallery = Gallery(population.images, distractors, self.criterion.distractors, self.read, *how)
        self._floors: dict[tuple[int, ...], dict[str, S]] = {}

    @abstractmethod
    def measure(self, guess: Tensor, truth: Tensor) -> S:
        """All metrics of one value (*shape) against another."""

    @abstractmethod
    def blind(self, truth: Tensor) -> dict[str, Tensor]:
        """Guesses (*shape) that no other sample is needed for, by name."""

    @abstractmethod
    def picture(self, values: Tensor) -> str:
        """One value as a picture, a data URI."""

    def usable(self, found: Found) -> bool:
        """Whether all values are finite."""
        return bool(torch.isfinite(values_of(found)).all())

    def distance(self, batch: Batch, found: Found) -> np.ndarray[Any, Any]:
        """Squared distances of what counts and is claimed, in proportion to the mean squared error."""
        read, part = self.read, claimed(found)
        if part is not None:
            read = part if read is None else part & read
        samples = replace(batch, images=within(batch.images, read))
        return squared_distances(samples, within(values_of(found), read))

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a sample of one batch is a near-duplicate of one of the other."""
        return any(bool(self.gallery.near_duplicates(truth, other.images).any()) for truth in one.images)

    def identify(self, batch: Batch, position: int, found: Found, row: int) -> Identification:
        """By mean squared error, among the gallery."""
        return self.gallery.identify(values_of(found)[row], batch.images[position])

    def floors(self, batch: Batch, position: int) -> dict[str, S]:
        """Metrics of the guesses that know nothing of this sample; those outside the batch only."""
        key = (batch.indices[position], *sorted(batch.indices))
        if key not in self._floors:
            self._floors[key] = self._compute_floors(batch, position)
        return self._floors[key]

    def _compute_floors(self, batch: Batch, position: int) -> dict[str, S]:
        truth, label = batch.images[position], int(batch.classes[position])
        floors = {name: self.measure(guess, truth) for name, guess in self.blind(truth).items()}
        alike, inside = self.gallery.near_duplicates(truth, self.population.images).tolist(), set(batch.indices)
        outside = [i for i in range(len(self.population)) if i not in inside and not alike[i]]
        if outside:
            floors["mean"] = self.measure(self.population.images[outside].mean(0), truth)
        same = [i for i in outside if int(self.population.classes[i]) == label]
        if same:
            floors["other"] = self.measure(self.population.images[same[0]], truth)
        return floors

    def all_floors(self, batch: Batch, position: int, prior_only: Sequence[Found]) -> dict[str, S]:
        """With what the attack makes without the update, the nearest of it."""
        truth, floors = batch.images[position], dict(self.floors(batch, position))
        if prior_only:
            alone = torch.cat([values_of(made) for made in prior_only])
            errors = within(alone - truth, self.read).flatten(1).square().mean(1)
            floors["prior_only"] = self.measure(alone[int(errors.argmin())], truth)
        return floors

    def why_not(self, beaten: bool | None, found: Identification) -> str:
        """Why a sample does not count as leaked, or "".

        Args:
            beaten: Whether every floor is beaten by the margin; ``None`` where a floor is the sample itself.
            found: Whether it is identified.
        """
        if beaten is None:
            return "a floor reproduces the sample exactly, so no reconstruction of it shows anything"
        if not beaten:
            return "does not beat every floor by the margin"
        least = self.criterion.distractors
        if found.distractors < least:
            return f"only {found.distractors} other {self.thing}s to tell it from, {least} are needed"
        return "" if found.identified else f"another {self.thing} is nearer to the reconstruction"

    def told_apart(self, found: Identification) -> dict[str, Any]:
        """What re-identification means for a sample, for the document."""
        if found.identified is None:
            why = f"there is no other {self.thing} to confuse it with"
        else:
            near = (
                f"up to {count(found.near_duplicates, 'near-duplicate')} in the batch file"
                if found.near_duplicates
                else ""
            )
            made = f"{found.augmented} of the others are {self.copies} at hand" if found.augmented else ""
            why = "; ".join(filter(None, (near, made)))
        return {
            "reidentified_reason": why,
            "augmented": found.augmented,
            "near_duplicates": found.near_duplicates,
        }

    def unscored_entry(self, found: Found, row: int) -> dict[str, Any]:
        """The picture."""
        return {"reconstruction_png": self.picture(values_of(found)[row])}
