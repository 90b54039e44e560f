"""One class of K: cross-entropy over K logits, or the logistic loss of one logit for two classes.

Label smoothing, class weights and the focal factor are those of `leakaudit.tasks.class_loss.ClassLoss`; of one logit
they act on the logits (0, z), whose softmax is the sigmoid of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from leakaudit.errors import LeakauditError
from leakaudit.tasks.base import Tally, Task, rows_once
from leakaudit.tasks.class_loss import PLAIN, ClassLoss
from leakaudit.tasks.own_loss import OwnLoss


@dataclass(frozen=True)
class SingleLabel(Task):
    """One class of K, by cross-entropy.

    Args:
        classes: K, an output for each.
        form: What the training code adds to cross-entropy.
        own: The user's own loss in its place.
    """

    kind: ClassVar[str] = "single-label"
    name: ClassVar[str] = "one class of K"
    has: ClassVar[str] = "one class"
    inference: ClassVar[str] = "leakaudit.attacks.labels.infer:infer_labels"
    classes: int
    form: ClassLoss = PLAIN
    own: OwnLoss | None = None

    @property
    def plain(self) -> bool:
        """Whether it is cross-entropy alone."""
        return self.own is None and self.form.plain

    @property
    def sign_tells(self) -> bool:
        """Whether the error is negative at the label alone."""
        return self.own is None and self.form.sign_tells

    @property
    def takes_shares(self) -> bool:
        """Of an own loss, tried."""
        return self.own is None or _takes_shares(self)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A class index."""
        return ()

    @property
    def outputs(self) -> int:
        """A logit per class."""
        return self.classes

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, K) against class indices (B,) or class probabilities (B, K)."""
        return self.form(outputs, labels) if self.own is None else self.own(outputs, labels)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class with the largest logit, (B,)."""
        return outputs.argmax(1)

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """1 where the class is predicted, else 0; of class probabilities the class with the largest share counts."""
        return (self.predicted(outputs) == self.hard(labels)).float()

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Uniform class indices (count,)."""
        return torch.randint(self.classes, (count,), generator=generator)

    def probes(self, count: int) -> Tensor:
        """The classes in turn."""
        return torch.arange(count) % self.classes

    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool, ...]:
        """The first samples of a class are matched where fewer of it were inferred than there are."""
        return rows_once(true[:, None], inferred[:, None])

    def tally(self, true: Tensor, inferred: Tensor) -> Tally:
        """The size of the intersection of both multisets."""
        return Tally(sum(self.match_labels(self.hard(true), self.hard(inferred))), len(true))

    def classes_in(self, labels: Tensor) -> list[int]:
        """The classes of the samples."""
        return sorted(self.hard(labels).tolist())

    def describe(self) -> str:
        """The loss."""
        return self.form.describe() if self.own is None else f"the user's own {self.own.path}"


@dataclass(frozen=True)
class OneLogit(SingleLabel):
    """One of two classes by a single logit, that of class 1, and the logistic loss.

    Args:
        classes: Two, by definition.
        form: As of `SingleLabel`.
        own: As well.
    """

    name: ClassVar[str] = "one of two classes"

    classes: int = 2

    @property
    def outputs(self) -> int:
        """The logit of class 1."""
        return 1

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean logistic loss of logits (B, 1) against class indices (B,) or class probabilities (B, 2)."""
        if self.own is not None:
            return self.own(outputs, labels)
        if not self.form.plain:
            return self.form(torch.cat([torch.zeros_like(outputs), outputs], 1), labels)
        positive = labels[:, 1] if labels.dim() == 2 else labels
        return F.binary_cross_entropy_with_logits(outputs[:, 0], positive.to(outputs.dtype))

    def predicted(self, outputs: Tensor) -> Tensor:
        """Class 1 where the logit is positive, (B,)."""
        return (outputs[:, 0] > 0).long()

    def describe(self) -> str:
        """The loss."""
        return "logistic (one logit)" if self.plain else f"{super().describe()}, of one logit"


def single_label(outputs: int, form: ClassLoss | None = None, own: OwnLoss | None = None) -> SingleLabel:
    """The task of a classifier with this many outputs."""
    form = form or PLAIN
    return OneLogit(form=form, own=own) if outputs == 1 else SingleLabel(outputs, form, own)


@cache
def _takes_shares(task: SingleLabel) -> bool:
    """Whether an own loss takes class probabilities (B, K) beside class indices (B,), and says the same of both."""
    outputs, labels = torch.linspace(-1, 1, 2 * task.outputs).view(2, -1), task.probes(2)
    try:
        shared = task.loss(outputs, F.one_hot(labels, task.classes).float())
    except LeakauditError:
        return False
    return bool(torch.isclose(shared, task.loss(outputs, labels), rtol=1e-3))
