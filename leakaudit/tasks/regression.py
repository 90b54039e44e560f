r"""A number, or several: the mean squared or absolute error, or Huber's, over D outputs.

.. math:: \ell(z, y) = \frac{1}{D} \sum_d \rho(z_d - y_d)

with ρ(r) = r² (``mse``), |r| (``l1``), or Huber's (``huber``, δ = 1 unless set), each as torch has it as a mean.
The error at output d, ρ'(z − y)/D, is in the update of one sample; the number itself follows from it once the output is
known, that is, once the input is. Of an absolute error the update shows its sign alone: above or below the output. A
loss of the user's own is inverted by descent, where it has the derivatives for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from leakaudit.tasks.base import Tally, Task, each_once
from leakaudit.tasks.names import NumberLoss
from leakaudit.tasks.own_loss import OwnLoss, label_behind

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss}
DESCRIBED = {"mse": "mean squared error", "l1": "mean absolute error"}
RIGHT = 0.01
"""Relative error up to which a number counts as inferred; chosen: one in a hundred."""
AWAY = 0.5
"""How far beyond the output a number is put where only its side is known; chosen."""


@dataclass(frozen=True)
class Regression(Task):
    """A number or several.

    Labels are float32 (B, D).

    Args:
        numbers: D, an output for each.
        of: The loss.
        delta: δ of Huber's, 1 by torch's default.
        own: The user's own loss in place of `of`.
    """

    kind: ClassVar[str] = "regression"
    name: ClassVar[str] = "numbers"
    has: ClassVar[str] = "numbers"
    label_reader: ClassVar[str] = "leakaudit.client.readers.labels:numbers"
    inference: ClassVar[str] = "leakaudit.attacks.labels.numbers:infer_numbers"
    continuous: ClassVar[bool] = True
    classes: ClassVar[int] = 0  # type: ignore[misc]
    numbers: int = 1
    of: NumberLoss = "mse"
    delta: float = 1.0
    own: OwnLoss | None = None

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A number per output."""
        return (self.numbers,)

    @property
    def outputs(self) -> int:
        """One per number."""
        return self.numbers

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean over outputs (B, D) and labels (B, D)."""
        labels = labels.to(outputs.dtype)
        if self.own is not None:
            return self.own(outputs, labels)
        return (
            F.huber_loss(outputs, labels, delta=self.delta) if self.of == "huber" else LOSSES[self.of](outputs, labels)
        )

    def correct(self, outputs: Tensor, labels: Tensor) -> None:
        """Nothing is right or wrong."""
        return

    def hard(self, labels: Tensor) -> Tensor:
        """Themselves."""
        return labels

    def relaxed(self, free: Tensor) -> Tensor:
        """Themselves: numbers have no limits."""
        return free

    def free(self, labels: Tensor) -> Tensor:
        """Themselves."""
        return self.unbounded(labels)

    def unbounded(self, labels: Tensor) -> Tensor:
        """Themselves."""
        return labels

    def loosened(self, labels: Tensor) -> Tensor:
        """Themselves."""
        return labels

    def tightened(self, loose: Tensor) -> Tensor:
        """Themselves."""
        return loose

    def decided(self, free: Tensor, begin: Tensor) -> Tensor:
        """Themselves."""
        return free

    def behind(self, outputs: Tensor, errors: Tensor) -> Tensor:
        """The output minus the residual that makes this error; of one that has reached its limit, beyond it."""
        if self.own is not None:
            return torch.cat([label_behind(self.own, z[None], e[None]) for z, e in zip(outputs, errors, strict=True)])
        slope = errors * self.numbers
        if self.of == "mse":
            return outputs - slope / 2
        beyond = slope.sign() * AWAY
        return outputs - (beyond if self.of == "l1" else torch.where(slope.abs() >= self.delta, slope + beyond, slope))

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Standard normal numbers."""
        return torch.randn((count, self.numbers), generator=generator)

    def probes(self, count: int) -> Tensor:
        """1, 2, …"""
        return torch.arange(1.0, count + 1)[:, None].expand(count, self.numbers).clone()

    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool | None, ...]:
        """Whether all numbers of a sample are those of an inferred row, each used once."""
        return each_once(self._near(true, inferred).all(2))

    def _near(self, true: Tensor, inferred: Tensor) -> Tensor:
        """Which numbers of every pair of rows agree (B, B', D), relative to the number and to the batch's size."""
        size = true.abs().maximum(true.square().mean(0, keepdim=True).sqrt())
        return (true[:, None] - inferred[None]).abs() <= RIGHT * size[:, None]

    def tally(self, true: Tensor, inferred: Tensor) -> Tally:
        """Samples all of whose numbers are right; none is by chance."""
        return Tally(sum(found is True for found in self.match_labels(true.cpu(), inferred.cpu())), len(true), 0.0)

    def classes_in(self, labels: Tensor) -> list[int]:
        """None."""
        return []

    def rows(self, labels: Tensor) -> list[list[float]]:
        """The numbers."""
        found: list[list[float]] = labels.tolist()
        return found

    def describe(self) -> str:
        """The loss."""
        if self.own is not None:
            return f"the user's own {self.own.path}"
        return f"Huber's loss (δ = {self.delta:g})" if self.of == "huber" else DESCRIBED[self.of]
