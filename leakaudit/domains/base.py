"""The contract of a domain: everything that the attacker and the auditor may know of a sample without having seen it.

A domain belongs to the training recipe, so it is public. Its private counterparts (the measure, the reader of sample
files) and its card in the report are named by text, ``package.module:Class``, and are looked up by the rooms that may
hold private samples: nothing here imports them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from leakaudit.domains.references import Reference
from leakaudit.domains.schema import Column
from leakaudit.errors import UsageError

Start = Literal["normal", "uniform", "zeros", "tiled"]
"""How the first guess of an optimisation attack is drawn."""


class Domain(ABC):
    """What a sample is. Implementations are frozen dataclasses that hash and pickle.

    *Values* are a sample as it is stored and scored (pixels in 0..1, token ids); *inputs* are what the model is fed
    after the client's normalisation. Both are tensors of a batch, ``(B, *shape)``.
    """

    kind: ClassVar[str]
    """The name, as in the document and in `leakaudit.attacks.base.Attack.reads`."""
    takes: ClassVar[str]
    """What a model of this domain takes, in the plural, for sentences."""
    measure: ClassVar[str]
    """The `leakaudit.scoring.base.Measure` of its samples, as ``package.module:Class``."""
    reader: ClassVar[str]
    """The `leakaudit.client.readers.base.Reader` of its sample files, as ``package.module:Class``."""
    card: ClassVar[str] = "leakaudit.report.domains.base:Card"
    """The `leakaudit.report.domains.base.Card` of its samples, as ``package.module:Class``."""
    misread: ClassVar[str] = "how its inputs are read"
    """What of its samples is easily misread, for a sentence; it makes a trained model fail on them."""
    table: str | None = None
    """Name of the tensor whose rows the inputs are numbers of, or ``None`` for inputs that are no such numbers."""
    uncounted: ClassVar[str] = ""
    """Why ranks cannot be counted, where inputs have no directions; empty where they can."""
    joint: ClassVar[bool] = False
    """Whether a sample is several inputs, each of which layers of its own may read."""
    shape: tuple[int, ...]
    """Of one sample, as a Target takes it."""

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Values to model inputs, both (B, *shape)."""

    @abstractmethod
    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs to values in their valid range, both (B, *shape)."""

    @abstractmethod
    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest model input; each broadcasts against (B, *shape)."""

    def projection(self, like: Tensor) -> Callable[[Tensor], object]:
        """A function that moves inputs (…, *shape) of this type and device into the valid range, in place."""
        low, high = self.box(like)
        return lambda inputs: inputs.clamp_(low, high)

    def project(self, inputs: Tensor) -> Tensor:
        """A copy of inputs (…, *shape), moved into the valid range."""
        moved = inputs.detach().clone()
        self.projection(moved)(moved)
        return moved

    def cast(self, inputs: Tensor) -> Tensor:
        """Inputs in the type that the model takes."""
        return inputs

    def finish(self, inputs: Tensor) -> Tensor:
        """What an attack found (B, *shape), in the valid range and in the type that the model takes."""
        return self.cast(self.project(inputs))

    @abstractmethod
    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """A first guess (batch, *shape) of model inputs, drawn on the CPU so that it is the same on every device."""

    @abstractmethod
    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        """Model inputs (count, *shape) with the statistics of real samples, made without any."""

    @abstractmethod
    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Any model inputs (batch, *shape) that the model accepts."""

    def roughness(self, inputs: Tensor) -> Tensor:
        """How unlike a natural sample inputs (B, *shape) are, a differentiable scalar: what ``tv_weight`` weighs.

        Zero where the domain has no such prior.
        """
        return inputs.new_zeros(())

    @property
    @abstractmethod
    def references(self) -> Sequence[Reference]:
        """Bundled networks over such samples that are known to leak: what the positive control attacks."""

    def on(self, found: Domain) -> Domain:
        """This domain for another model, whose own one is given: the same where it does not depend on the model."""
        return self

    def inside(self, prefix: str) -> Domain:
        """This domain for a model that holds its own one as a part, whose tensors are now named ``prefix.…``."""
        return self

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Domain:
        """This domain with the client's normalisation.

        Raises:
            UsageError: It has none, or the values do not fit.
        """
        for option, values in (("--mean", mean), ("--std", std)):
            if values:
                raise UsageError(f"{option} is for images, the model takes {self.takes}", f"leave out {option}")
        return self

    def with_columns(self, columns: Sequence[Column]) -> Domain:
        """This domain with what a schema says of the columns of a table.

        Raises:
            UsageError: Samples are no rows of a table, or the columns do not fit the model.
        """
        raise UsageError(f"--schema is for tables, the model takes {self.takes}", "leave out --schema")

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Ranges (first, behind the last) of a sample's entries of which one is 1 and the others are 0."""
        return ()

    @property
    def assumption(self) -> str:
        """What was guessed of the samples, in words; empty where nothing was."""
        return ""

    def rescaled(self, slope: Tensor, offset: Tensor) -> tuple[Domain, str]:
        """This domain for a model that does y = slope·x + offset to each value by itself.

        Args:
            slope: A number per entry of a sample, flat.
            offset: As well.

        Returns:
            The domain, and a sentence on what the model takes where that is not what was to be expected, or "".
        """
        return self, ""

    def exposed(self, trained: Collection[str]) -> tuple[str, ...]:
        """What an update of these tensors shows whatever the ranks are, a sentence each."""
        return ()

    def neighbours(self, sample: Tensor) -> Iterator[Tensor] | None:
        """The samples next to one (*shape), which uniqueness is tested against; ``None`` where the Jacobian decides."""
        return None

    @property
    def sides(self) -> tuple[int, ...]:
        """Sizes of the axes beside the channels; a model may classify each of these places."""
        return self.shape[1:]

    @property
    def ids(self) -> int:
        """How many values an entry can have; 0 of real numbers."""
        return 0

    @property
    def not_unique(self) -> str:
        """What it means that a neighbour fits the update as well."""
        return "a sample next to it regenerates the update as well"

    def squared_unit(self) -> float | None:
        """Mean square of one unit of the inputs in units of the values; ``None`` where an error has no unit."""
        return None

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation that the client normalises with; empty where it does not."""
        return (), ()

    def facts(self) -> dict[str, Any]:
        """What the document's section on the model says beside the shape, by the section's keys."""
        return {}

    def lookups(self) -> dict[str, str | int | bool | None] | None:
        """What inputs that are numbers of rows look up, or ``None``."""
        return None

    def told(self, layout: str, native: Sequence[int]) -> str:
        """One sample in words, and how the model's file arranges it."""
        return f"{'×'.join(map(str, self.shape))} {self.kind}, {layout} {list(native)}"

    @abstractmethod
    def describe(self) -> str:
        """The normalisation, for the report."""


def drawn(kind: Start, shape: Sequence[int], generator: Generator) -> Tensor:
    """A start of any shape: zeros, uniform in -1..1, or standard normal for every other kind."""
    if kind == "zeros":
        return torch.zeros(tuple(shape))
    if kind == "uniform":
        return torch.rand(tuple(shape), generator=generator) * 2 - 1
    return torch.randn(tuple(shape), generator=generator)
