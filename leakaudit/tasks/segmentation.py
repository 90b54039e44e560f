r"""A class for each place (segmentation): a pixel, a voxel, a time step; logits, labels, cross-entropy and Dice.

Outputs are (B, K, \*places) or, with the channels last, (B, \*places, K), flattened to (B, outputs). One channel is the
logit of class 1 of two, as of a mask. Labels are class indices (B, \*places), `leakaudit.tasks.class_loss.IGNORED`
where a place takes no part in the loss, or shares of the classes (B, K, \*places).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from leakaudit.tasks.base import Tally, Task, each_once
from leakaudit.tasks.class_loss import IGNORED, PLAIN, ClassLoss
from leakaudit.tasks.names import PlaceLoss
from leakaudit.tasks.own_loss import OwnLoss

RIGHT = 0.02
"""Difference of a class's share of a sample up to which the class areas count as inferred: two points; chosen."""
SMOOTH = 1e-5
"""Added to both sides of the fraction of Dice's coefficient, against empty classes; as MONAI's ``DiceLoss``, by
convention."""
LEAST = 1e-3
"""Share of a class at which an optimisation begins that is thought not to occur; chosen."""


@dataclass(frozen=True)
class Segmentation(Task):
    """A class for each place of a sample.

    Args:
        channels: Outputs per place; one for two classes.
        places: Sizes of the axes of a label, as (H, W).
        last: Whether the model returns its channels last.
        of: Cross-entropy over all places, Dice's loss over each sample's classes, or their sum.
        form: What the training code adds to cross-entropy.
        own: The user's own loss in place of all that; its outputs have their axes.
    """

    kind: ClassVar[str] = "segmentation"
    name: ClassVar[str] = "a class per place"
    has: ClassVar[str] = "a class per place"
    label_reader: ClassVar[str] = "leakaudit.client.readers.labels:class_per_place"
    inference: ClassVar[str] = "leakaudit.attacks.labels.areas:infer_areas"
    channels: int
    places: tuple[int, ...] = ()
    last: bool = False
    of: PlaceLoss = "cross-entropy"
    form: ClassLoss = PLAIN
    own: OwnLoss | None = None

    @property
    def classes(self) -> int:  # type: ignore[override]
        """K."""
        return max(2, self.channels)

    @property
    def plain(self) -> bool:
        """Whether it is cross-entropy alone."""
        return self.own is None and self.of == "cross-entropy" and self.form.plain

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A class index for each place."""
        return self.places

    @property
    def free_shape(self) -> tuple[int, ...]:
        """A number for each class and place."""
        return (self.classes, *self.places)

    @property
    def outputs(self) -> int:
        """A logit for each channel and place."""
        return self.channels * math.prod(self.places)

    def by_class(self, outputs: Tensor) -> Tensor:
        """Logits (B·places, channels)."""
        return self.arranged(outputs).flatten(2).transpose(1, 2).reshape(-1, self.channels)

    def arranged(self, outputs: Tensor) -> Tensor:
        """Outputs (B, channels, *places)."""
        if self.last:
            return outputs.reshape(len(outputs), *self.places, self.channels).movedim(-1, 1)
        return outputs.reshape(len(outputs), self.channels, *self.places)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of outputs (B, outputs) against class indices (B, *places) or shares (B, K, *places)."""
        maps = self.arranged(outputs)
        if self.own is not None:
            return self.own(maps, labels)
        scores = maps if self.channels > 1 else torch.cat([torch.zeros_like(maps), maps], 1)
        terms = []
        if self.of != "dice":
            rows = scores.flatten(2).transpose(1, 2).reshape(-1, self.classes)
            terms.append(self.form(rows, _rows(labels, self.places)))
        if self.of != "cross-entropy":
            terms.append(dice(scores, self._shares(labels).to(scores), foreground=self.channels == 1))
        return torch.stack(terms).sum()

    def _shares(self, labels: Tensor) -> Tensor:
        """Labels as shares of the classes (B, K, *places)."""
        if labels.is_floating_point():
            return labels
        shares = F.one_hot(labels.clamp_min(0), self.classes).movedim(-1, 1)
        return shares * (labels != IGNORED)[:, None]

    def everywhere(self, shares: Tensor, count: int) -> Tensor:
        """Labels (count, K, *places) with the same shares (K,) at every place."""
        return shares.view(1, -1, *(1 for _ in self.places)).expand(count, -1, *self.places)

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Share of the places that are not ignored whose class is predicted."""
        maps = self.arranged(outputs)
        predicted = maps.argmax(1) if self.channels > 1 else (maps[:, 0] > 0).long()
        right, counted = ((predicted == labels), (labels != IGNORED))
        return right.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1)

    def free(self, labels: Tensor) -> Tensor:
        """The logarithm of each class's share of the whole batch, at every place: nothing tells places apart."""
        shares = self.areas(labels).mean(0).clamp_min(LEAST)
        return self.everywhere(shares.log(), len(labels)).clone()

    def behind(self, outputs: Tensor, errors: Tensor) -> Tensor:
        """The class of each place whose error is smallest for its prediction: the only one that falls below zero.

        So it is under cross-entropy, with weights and the focal factor, and under Dice's loss: there the error of class
        c is :math:`p_c (a_c - \\sum_k p_k a_k)`, and only a label's a is negative.
        """
        maps, wrong = self.arranged(outputs), self.arranged(errors)
        if self.channels == 1:
            return (wrong[:, 0] < 0).long()
        return (wrong / maps.softmax(1).clamp_min(torch.finfo(maps.dtype).tiny)).argmin(1)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Uniform class indices."""
        return torch.randint(self.classes, (count, *self.places), generator=generator)

    def probes(self, count: int) -> Tensor:
        """The classes in turn, beginning at another one for each sample."""
        along = torch.arange(math.prod(self.places)).view(1, *self.places)
        return (along + torch.arange(count).view(-1, *(1 for _ in self.places))) % self.classes

    def at_places(self, places: tuple[int, ...]) -> Task:
        """The same over axes of other sizes."""
        return replace(self, places=places)

    def areas(self, labels: Tensor) -> Tensor:
        """The share of each class (B, K) of labels (B, *places)."""
        known = labels.flatten(1)
        counts = torch.stack([(known == k).sum(1) for k in range(self.classes)], 1).float()
        return counts / counts.sum(1, keepdim=True).clamp_min(1)

    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool | None, ...]:
        """Whether the class areas of a sample are those of an inferred label up to two points, each used once."""
        known, read = self.areas(true), self.areas(inferred)
        return each_once((known[:, None] - read[None]).abs().amax(2) <= RIGHT)

    def tally(self, true: Tensor, inferred: Tensor) -> Tally:
        """Places that are right as far as the areas of each class tell; by chance with all classes alike."""
        known, read = (torch.bincount(t[t >= 0].flatten().cpu(), minlength=self.classes) for t in (true, inferred))
        total = int(known.sum())
        alike = torch.full_like(known, total // self.classes)
        chance = int(torch.minimum(known, alike).sum()) / total if total else 0.0
        return Tally(int(torch.minimum(known, read).sum()), total, chance)

    def classes_in(self, labels: Tensor) -> list[int]:
        """The classes of each sample, once for a sample."""
        return sorted(k for row in labels for k in row.unique().tolist() if k >= 0)

    def rows(self, labels: Tensor) -> list[list[float]]:
        """The share of each class."""
        found: list[list[float]] = self.areas(labels).tolist()
        return found

    def map_of(self, label: Tensor) -> Tensor | None:
        """The label itself."""
        return label

    def describe(self) -> str:
        """The loss."""
        if self.own is not None:
            return f"the user's own {self.own.path}"
        parts = [self.form.describe()] if self.of != "dice" else []
        parts += ["Dice's loss"] if self.of != "cross-entropy" else []
        return f"{' plus '.join(parts)} over {'×'.join(map(str, self.places))} places"


def dice(scores: Tensor, shares: Tensor, *, foreground: bool) -> Tensor:
    r"""Dice's loss, the mean over samples and classes of :math:`1 - (2 Σ p y + s) / (Σ p + Σ y + s)`.

    Milletari et al. 2016 (arXiv 1606.04797), in the form of MONAI's ``DiceLoss`` with its defaults.

    Args:
        scores: Logits (B, K, *places).
        shares: Labels as shares of the classes, of the same shape.
        foreground: Whether class 1 alone counts.
    """
    p, y = scores.softmax(1).flatten(2), shares.flatten(2)
    if foreground:
        p, y = p[:, 1:], y[:, 1:]
    fraction = (2 * (p * y).sum(2) + SMOOTH) / (p.sum(2) + y.sum(2) + SMOOTH)
    return (1 - fraction).mean()


def _rows(labels: Tensor, places: tuple[int, ...]) -> Tensor:
    """Labels of every place after another: indices (N,) or shares (N, K)."""
    if not labels.is_floating_point():
        return labels.reshape(-1)
    return labels.reshape(*labels.shape[:2], math.prod(places)).transpose(1, 2).flatten(0, 1)
