"""A domain of a plug-in, in one file: signals (C, L) in -1..1, with the measure and the reader of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Reader, Source
from leakaudit.client.readers.labels import check_labels
from leakaudit.domains.base import Domain, Start, drawn
from leakaudit.domains.references import REFERENCES, Reference
from leakaudit.domains.specs import Spec
from leakaudit.errors import BatchError
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, Measure, SampleScore, squared_distances
from leakaudit.scoring.reidentify import Identification


@dataclass(frozen=True)
class Waves(Domain):
    """Waves that are fed as they are."""

    kind: ClassVar[str] = "waves"
    takes: ClassVar[str] = "waves"
    measure: ClassVar[str] = "tests.domains.toy:WaveMeasure"
    reader: ClassVar[str] = "tests.domains.toy:WaveReader"

    shape: tuple[int, ...] = (2, 8)

    def encode(self, values: Tensor) -> Tensor:
        return values

    def decode(self, inputs: Tensor) -> Tensor:
        return inputs.clamp(-1, 1)

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_full((1, 1), -1.0), like.new_full((1, 1), 1.0)

    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        return drawn(kind, (batch, *self.shape), generator)

    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        return torch.sin(6 * torch.rand((count, self.shape[0], 1), generator=generator) * torch.arange(self.shape[1]))

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        return torch.randn((batch, *self.shape), generator=generator)

    def roughness(self, inputs: Tensor) -> Tensor:
        return inputs.diff(dim=-1).abs().mean()

    @property
    def references(self) -> Sequence[Reference]:
        return REFERENCES[:1]

    def describe(self) -> str:
        return "none"


@dataclass(frozen=True, eq=False, kw_only=True)
class WaveScore(SampleScore):
    """The error, and that of the mean of the other signals."""

    error: float
    floor: float

    @property
    def metrics(self) -> Mapping[str, float | None]:
        return {"error": self.error}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        return {"mean": {"error": self.floor}}

    @property
    def strength(self) -> float:
        return self.floor - self.error

    @property
    def closeness(self) -> float:
        return -self.error


class WaveMeasure(Measure[Tensor]):
    """Root mean squared error; a tenth of the floor's is a leak."""

    specs = (Spec("error", "Error", "V", 3, higher_is_better=False, beside=True, lead=True, undefined=0.0),)

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> WaveMeasure:
        return cls(population)

    def like(self, domain: Domain, population: Batch) -> WaveMeasure:
        return type(self)(population)

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> Tensor:
        return domain.decode(reconstruction.inputs.cpu())

    def distance(self, batch: Batch, found: Tensor) -> np.ndarray[Any, Any]:
        return squared_distances(batch, found)

    def measure(self, guess: Tensor, truth: Tensor) -> float:
        return float((guess - truth).square().mean().sqrt())

    def floors(self, batch: Batch, position: int) -> dict[str, float]:
        outside = [i for i in range(len(self.population)) if i not in batch.indices]
        mean = self.population.images[outside].mean(0)
        return {"mean": self.measure(mean, batch.images[position])}

    def identify(self, batch: Batch, position: int, found: Tensor, row: int) -> Identification:
        errors = [self.measure(found[row], other) for other in self.population.images]
        nearest = min(range(len(errors)), key=lambda i: errors[i])
        return Identification(nearest == batch.indices[position], len(errors) - 1, 0, 0)

    def judge(self, batch: Batch, position: int, found: Tensor, row: int, prior_only: Sequence[Tensor]) -> WaveScore:
        error, floor = self.measure(found[row], batch.images[position]), self.floors(batch, position)["mean"]
        floor = min([floor, *(self.measure(one, batch.images[position]) for made in prior_only for one in made)])
        identified = self.identify(batch, position, found, row)
        leaked = bool(error < 0.1 * floor and identified.identified)
        return WaveScore(
            position=position, reconstruction=row, identification=identified, leaked=leaked,
            reason="" if leaked else "not near enough", error=error, floor=floor,
        )  # fmt: skip

    def alike(self, one: Batch, other: Batch) -> bool:
        return bool((squared_distances(one, other.images) < 1e-6).any())

    def recognisable(self, score: SampleScore) -> bool:
        return -score.closeness < 0.05

    def told(self, score: SampleScore) -> str:
        return f"an error of {-score.closeness:.3f} V"


class WaveReader(Reader):
    """Reads arrays (N, C, L)."""

    def read(self, source: Source) -> Batch:
        if isinstance(source, Batch):
            return source
        if not isinstance(source, tuple):
            raise BatchError(f"{source}: signals are read from arrays only")
        values = torch.as_tensor(np.asarray(source[0]), dtype=torch.float32)
        labels = check_labels(np.asarray(source[1]), len(values), self.target.classes, "batch")
        return Batch(values, labels, tuple(range(len(values))))
