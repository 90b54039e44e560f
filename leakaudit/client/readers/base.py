"""The contract of a reader of private samples, one for each domain, and the choice among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.readers.memory import gathered
from leakaudit.errors import UsageError
from leakaudit.target.target import Target

DataLayout = Literal["auto", "NCHW", "NHWC"]
ValueRange = Literal["auto", "pixels", "normalized"]
Source = str | Path | Batch | Any
"""A file or folder, samples that were read already, or what `leakaudit.client.readers.memory.gathered` takes."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a sample file is to be read.

    Args:
        layout: Axis order of 4-D arrays; ``auto`` infers it from the model's shape.
        values: ``pixels`` (0..1, 0..255 or 0..65535), ``normalized`` (mean and std of the domain already applied), or
            ``auto``, which also asks where pictures would be nearly black; see `leakaudit.client.readers.pixels`.
        resize: Resize and centre-crop images of a folder to the model's size.
    """

    layout: DataLayout = "auto"
    values: ValueRange = "auto"
    resize: bool = False


@dataclass(frozen=True, eq=False)
class Reader(ABC):
    """Reads samples for a model.

    Args:
        target: The model, with the client's normalisation.
        reading: How a file is to be read.
    """

    target: Target
    reading: Reading = field(default_factory=Reading)

    @abstractmethod
    def read(self, source: Source) -> Batch:
        """The samples, checked against the model.

        Raises:
            UsageError: The path does not exist.
            BatchError: The content does not fit the model; says where and what was expected.
        """

    def gathered(self, source: Any) -> Source:
        """Samples in memory, in whatever form, as :meth:`fitted` takes them; a path as it is.

        Raises:
            UsageError: It is nothing that holds samples.
            BatchError: It holds none, or too many.
        """
        return gathered(source)

    def fitted(self, source: Source) -> tuple[Target, Batch]:
        """The samples, and the model for their size where it leaves that open.

        Raises:
            ModelError: The model does not run at their size.
            UsageError: As of :meth:`read`, like BatchError.
        """
        return self.target, self.read(source)

    def public(self, path: str | Path) -> Tensor:
        """Public samples (M, *shape) without labels, for attacks that learn from them.

        Raises:
            UsageError: This domain has no use for them.
        """
        raise UsageError(f"{path}: public samples are for images, the model takes {self.target.domain.takes}")

    def refuse(self, given: Mapping[str, object]) -> None:
        """Refuse options about pixels, rather than ignore them.

        Args:
            given: Values by option.

        Raises:
            UsageError: One was given, and these samples have no pixels.
        """
        for name, value in given.items():
            if value:
                raise UsageError(
                    f"{name} is for images, the model takes {self.target.domain.takes}", f"leave out {name}"
                )


def reader_for(target: Target, reading: Reading | None = None) -> Reader:
    """The reader of a model's domain."""
    kind: type[Reader] = resolve_name(target.domain.reader)
    return kind(target, reading or Reading())
