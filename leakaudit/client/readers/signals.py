"""Private signals: an ``.npz`` with an array of inputs (N, C, L) or (N, L, C), or (N, L) of one channel, and labels.

Values are kept in their own unit, whatever it is. The range of each channel, which an attacker knows of a sensor, is
taken to be the round numbers that hold all values of the file; the notes of the batch say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.readers.arranging import arranged
from leakaudit.client.readers.base import Reader, Source
from leakaudit.client.readers.labels import label_note, read_labels
from leakaudit.client.readers.memory import gathered
from leakaudit.client.readers.npz import Arrays, as_arrays, hash_files, read_npz
from leakaudit.domains.signals import Signals, round_range
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.target import LAST, Target


@dataclass(frozen=True, eq=False)
class SignalReader(Reader):
    """Reads signals for a model."""

    @property
    def domain(self) -> Signals:
        """Of the model.

        Raises:
            UsageError: It takes no signals.
        """
        if not isinstance(self.target.domain, Signals):
            raise UsageError(f"{self.target.name} takes {self.target.domain.takes}, no signals")
        return self.target.domain

    def read(self, source: Source) -> Batch:
        """The signals in their own unit, float32 (N, C, L)."""
        source = gathered(source)
        if isinstance(source, Batch):
            return source
        if isinstance(source, tuple):
            path, arrays = None, as_arrays(source)
        else:
            path = _existing(source)
            arrays = read_npz(path)
        where = str(path) if path else "batch"
        values, note = self._values(arrays, where)
        labels = read_labels(self.target.task, arrays.labels, len(values), where)
        low, high = _range(values)
        shown = "; ".join(dict.fromkeys(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True)))
        return Batch(
            images=values,
            labels=labels,
            indices=tuple(range(len(values))),
            class_names=arrays.class_names,
            path=None if path is None else where,
            sha256=None if path is None else hash_files([path]),
            notes=(
                note,
                f"the range of the channels is taken to be public, in round numbers: {shown}",
                *label_note(labels, self.target.task),
            ),
        )

    def fitted(self, source: Source) -> tuple[Target, Batch]:
        """The signals, and the model with the range of their channels."""
        batch = self.read(source)
        if not batch.known:
            return self.target, batch
        return replace(self.target, domain=self.domain.within(*_range(batch.images))), batch

    def _values(self, arrays: Arrays, where: str) -> tuple[Tensor, str]:
        if self.reading.values == "pixels":
            raise UsageError("--values pixels is for images, the model takes signals", "leave it out")
        array, note = arranged(
            arrays.inputs, self.domain.shape, self.reading.layout, where, last=self.target.layout in LAST
        )
        values = torch.from_numpy(np.array(array, dtype=np.float32))
        broken = (~torch.isfinite(values)).flatten(1).any(1).nonzero()
        if len(broken):
            raise BatchError(
                f"{where}: inputs hold NaN, infinite or too large values, first in sample {int(broken[0])}",
                "remove or repair those samples",
            )
        if self.reading.values == "normalized":
            domain = self.domain
            mean, std = (torch.tensor(column).view(-1, 1) for column in (domain.mean, domain.std))
            return values * std + mean, f"{note}, already normalised"
        return values, note

    def public(self, path: str | Path) -> Tensor:
        """Public signals (M, C, L) of an ``.npz`` file, without labels."""
        return self._values(read_npz(_existing(path), labelled=False), str(path))[0]

    def refuse(self, given: Mapping[str, object]) -> None:
        """Only what is about pictures."""
        super().refuse({name: value for name, value in given.items() if name == "--resize"})


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise UsageError(f"no such batch file: {path}", "pass --batch FILE.npz with inputs (N, C, L) and labels")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; the model takes signals", "pass --batch FILE.npz")
    return path


def _range(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The round range of every channel of signals (N, C, L)."""
    ends = [round_range(float(channel.min()), float(channel.max())) for channel in values.movedim(1, 0)]
    return tuple(low for low, _ in ends), tuple(high for _, high in ends)
