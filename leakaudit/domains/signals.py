"""Signals: (C, L), C channels of L values in a unit of their own, each with a range; neighbours in time are alike.

An ECG in millivolts, sound, an accelerometer, or a sequence of T feature vectors, which is a signal of F channels. What
is public is the range of each channel (that of a sensor): without one it is the round number that holds all values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.domains.base import Start
from leakaudit.domains.channels import Channels
from leakaudit.domains.references import SIGNAL_REFERENCES, Reference

SPECTRUM = 1.0
"""Amplitude of the look-alikes falls as frequency to this power; chosen: between noise and a random walk."""
SPANS = 8.0
"""A range is this many standard deviations of a signal wide; chosen: a standardised one then has -4 to 4."""
ROUND = (1.0, 2.0, 5.0, 10.0)
"""Leading digits of the limits of a range that nobody named, by convention."""


@dataclass(frozen=True)
class Signals(Channels):
    """The space of signals.

    Args:
        shape: ``(C, L)`` of one sample.
        mean: Per-channel mean that the client subtracts, in the unit of the values, length C.
        std: Per-channel standard deviation that it divides by, length C.
        low: Smallest value of each channel, length C.
        high: Largest value of each channel, length C.

    A model input is ``x = (value - mean) / std``.
    """

    kind: ClassVar[str] = "signals"
    takes: ClassVar[str] = "signals"
    measure: ClassVar[str] = "leakaudit.scoring.signals:SignalMeasure"
    reader: ClassVar[str] = "leakaudit.client.readers.signals:SignalReader"
    card: ClassVar[str] = "leakaudit.report.domains.signals:SignalCard"

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def plain(cls, shape: Sequence[int]) -> Signals:
        """Standardised signals that are fed as they are."""
        channels, limit = shape[0], SPANS / 2
        return cls(tuple(shape), (0.0,) * channels, (1.0,) * channels, (-limit,) * channels, (limit,) * channels)

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs (B, C, L) to values, clamped to the range of each channel."""
        values = inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)
        return values.clamp(self._column(self.low, inputs), self._column(self.high, inputs))

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest model input per channel, each of shape (C, 1)."""
        return self.encode(self._column(self.low, like)), self.encode(self._column(self.high, like))

    def unit(self, like: Tensor) -> Tensor:
        """A standard deviation of model inputs (C, 1), by the range."""
        low, high = self.box(like)
        return (high - low) / SPANS

    def within(self, low: Sequence[float], high: Sequence[float]) -> Signals:
        """This domain with the range of each channel."""
        return replace(self, low=tuple(low), high=tuple(high))

    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """Noise or zeros in the middle of the range, or a short patch of noise repeated (``tiled``)."""
        made = self.noise(kind, batch, generator)
        low, high = self.box(made)
        return made * self.unit(made) + (low + high) / 2

    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        """Signals with a spectrum that falls with frequency (1/f noise), in the middle of the range."""
        channels, length = self.shape
        frequency = torch.fft.rfftfreq(length).clamp_min(1 / length)
        noise = torch.fft.rfft(torch.randn((count, channels, length), generator=generator))
        made: Tensor = torch.fft.irfft(noise * frequency**-SPECTRUM, n=length)
        made = made / made.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-12)
        low, high = self.box(made)
        return (made * self.unit(made) + (low + high) / 2).clamp(low, high)

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Normal numbers in the middle of the range."""
        return self.start("normal", batch, generator)

    def roughness(self, inputs: Tensor) -> Tensor:
        """Mean absolute first difference in time, in standard deviations by the range; 0 for a single value."""
        if inputs.shape[-1] < 2:
            return inputs.new_zeros(())
        return (inputs.diff(dim=-1) / self.unit(inputs)).abs().mean()

    @property
    def references(self) -> Sequence[Reference]:
        """Networks over signals, see `leakaudit.domains.references`."""
        return SIGNAL_REFERENCES

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Signals:
        """With this mean and standard deviation; one value serves all channels, none means values as they are.

        Raises:
            UsageError: A wrong number of values, or a standard deviation that is not positive.
        """
        columns = self.columns(mean, std)
        low = tuple(m - SPANS / 2 * s for m, s in zip(*columns, strict=True))
        high = tuple(m + SPANS / 2 * s for m, s in zip(*columns, strict=True))
        return replace(self, mean=columns[0], std=columns[1], low=low, high=high)

    def told(self, layout: str, native: Sequence[int]) -> str:
        """Channels, length, and how the model's file arranges them."""
        channels, length = self.shape
        what = "1 channel" if channels == 1 else f"{channels} channels"
        return f"signals of {what} and {length} values, {layout} {list(native)}"

    def describe(self) -> str:
        """Mean, standard deviation and range."""
        return f"mean {list(self.mean)}, std {list(self.std)}, range {list(self.low)} to {list(self.high)}"


def round_range(low: float, high: float) -> tuple[float, float]:
    """The smallest range of round numbers that holds both: 1, 2 or 5 times a power of ten on each side of zero.

    Coarse by intention: it says of the values what the data sheet of a sensor says, and no more.
    """
    size = max(abs(low), abs(high))
    if size == 0:
        return -1.0, 1.0
    power = 10.0 ** math.floor(math.log10(size))
    limit = next(power * digit for digit in ROUND if power * digit >= size)
    return (0.0 if low >= 0 else -limit), limit
