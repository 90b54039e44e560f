r"""Several classes of K: a yes or no for each class, by binary cross-entropy over K logits.

.. math:: \ell(z, y) = -\frac{1}{K} \sum_k w_k\, y_k \log\sigma(z_k) + (1 - y_k) \log(1 - \sigma(z_k))

as torch's ``BCEWithLogitsLoss`` with its ``pos_weight`` w; the focal loss multiplies both terms by
:math:`(1 - p)^\gamma` of the right answer (Lin et al. 2017, arXiv 1708.02002). The error at logit k is
:math:`(\sigma(z_k) - y_k)/K` where w is one and γ zero: with any w and γ it is negative exactly where the class is
marked, so the update of one sample shows all of its labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from leakaudit.tasks.base import Tally, Task, rows_once
from leakaudit.tasks.own_loss import OwnLoss

MARKED = 0.25
"""Share of the classes that a random label marks; chosen."""
UNKNOWN = 0.5
"""Where an optimisation begins if nothing is known of a label, by definition: neither yes nor no."""
CERTAIN = 0.02
"""Share at which an optimisation begins where a label is known to be no or yes, from either end; chosen."""


@dataclass(frozen=True)
class MultiLabel(Task):
    """Several classes of K, by binary cross-entropy.

    Labels are float32 (B, K): 1 where a class is marked, else 0. Rows of fractions say how many samples of the batch
    have each class, not which: that is what an update of several samples tells.

    Args:
        classes: K, an output for each.
        pos_weight: Weight of the marked classes (K,); empty where all are one.
        gamma: γ of the focal factor; 0 without one.
        own: The user's own loss in place of all that.
    """

    kind: ClassVar[str] = "multi-label"
    name: ClassVar[str] = "several classes of K"
    has: ClassVar[str] = "several classes"
    label_reader: ClassVar[str] = "leakaudit.client.readers.labels:several_classes"
    inference: ClassVar[str] = "leakaudit.attacks.labels.several:infer_several"
    classes: int
    pos_weight: tuple[float, ...] = ()
    gamma: float = 0.0
    own: OwnLoss | None = None

    @property
    def sign_tells(self) -> bool:
        """Whether the error is negative exactly where a class is marked."""
        return self.own is None

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A yes or no for each class."""
        return (self.classes,)

    @property
    def outputs(self) -> int:
        """A logit per class."""
        return self.classes

    def weights(self, like: Tensor) -> Tensor:
        """The weight of every class when it is marked (K,)."""
        return torch.tensor(self.pos_weight or (1.0,) * self.classes, dtype=like.dtype, device=like.device)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits (B, K) against labels in 0..1 (B, K)."""
        if self.own is not None:
            return self.own(outputs, labels.to(outputs.dtype))
        weight = self.weights(outputs) if self.pos_weight else None
        if self.gamma:
            return self._focal(outputs, labels.to(outputs.dtype))
        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), pos_weight=weight)

    def _focal(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The focal loss of every logit, as a mean."""
        yes, no = F.logsigmoid(outputs), F.logsigmoid(-outputs)
        least = torch.finfo(outputs.dtype).eps
        marked = -self.weights(outputs) * yes * no.exp().clamp_min(least) ** self.gamma
        other = -no * yes.exp().clamp_min(least) ** self.gamma
        return (labels * marked + (1 - labels) * other).mean()

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Share of the classes whose logit has the sign of the label."""
        return ((outputs > 0) == (labels > 0.5)).float().mean(1)

    def hard(self, labels: Tensor) -> Tensor:
        """Themselves."""
        return labels

    def relaxed(self, free: Tensor) -> Tensor:
        """Their sigmoid."""
        return free.sigmoid()

    def free(self, labels: Tensor) -> Tensor:
        """Their logit, within reach of a descent."""
        return self.unbounded(labels.clamp(CERTAIN, 1 - CERTAIN))

    def unbounded(self, labels: Tensor) -> Tensor:
        """Their logit."""
        return labels.logit(torch.finfo(labels.dtype).eps)

    def loosened(self, labels: Tensor) -> Tensor:
        """Themselves: no class depends on another."""
        return labels

    def tightened(self, loose: Tensor) -> Tensor:
        """Themselves."""
        return loose

    def decided(self, free: Tensor, begin: Tensor) -> Tensor:
        """As many samples of each class as it began with, those of the largest sigmoid; else where it is above a half.

        The counts come from the update alone, which tells them better than an optimisation does.
        """
        if begin.shape != free.shape or bool((begin == UNKNOWN).all()):
            return (free > 0).float()
        rank = free.argsort(0, descending=True).argsort(0)
        return (rank < begin.sum(0).round()).float()

    def behind(self, outputs: Tensor, errors: Tensor) -> Tensor:
        """Yes where the error is negative; of an own loss where the error of a yes is nearer than that of a no."""
        if self.sign_tells:
            return (errors < 0).float()
        no, yes = (self.errors(outputs, torch.full_like(outputs, float(mark))) for mark in (0, 1))
        return ((errors - yes).abs() < (errors - no).abs()).float()

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Rows in which each class is marked with the same probability."""
        return (torch.rand((count, self.classes), generator=generator) < MARKED).float()

    def probes(self, count: int) -> Tensor:
        """Every other class, in turn."""
        return ((torch.arange(count)[:, None] + torch.arange(self.classes)) % 2).float()

    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool | None, ...]:
        """Whether the whole row is among the inferred rows; unknown where these are only counts."""
        if not bool(((inferred == 0) | (inferred == 1)).all()):
            return (None,) * len(true)
        return rows_once(true, inferred)

    def tally(self, true: Tensor, inferred: Tensor) -> Tally:
        """Cells that are right, as far as the counts of each class tell; by chance as the best count that is the same
        for every class."""
        known, read = true.round().sum(0), inferred.sum(0).round()
        total = true.numel()
        right = total - int((known - read).abs().sum())
        alike = (1 - float((known - count).abs().sum()) / total for count in range(len(true) + 1)) if total else ()
        return Tally(right, total, max(alike, default=0.0))

    def classes_in(self, labels: Tensor) -> list[int]:
        """The classes that are marked."""
        counts = labels.sum(0).round().long().cpu()
        found: list[int] = torch.repeat_interleave(torch.arange(self.classes), counts).tolist()
        return found

    def rows(self, labels: Tensor) -> list[list[float]]:
        """A number for each class."""
        found: list[list[float]] = labels.tolist()
        return found

    def describe(self) -> str:
        """The loss."""
        if self.own is not None:
            return f"the user's own {self.own.path}"
        name = f"binary focal loss (γ = {self.gamma:g})" if self.gamma else "binary cross-entropy"
        return name + (" with weights of the marked classes" if self.pos_weight else "")
