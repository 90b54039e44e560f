r"""A loss over several outputs of one model, against the same labels: auxiliary heads, deep supervision.

.. math:: \ell(z, y) = \sum_h w_h\, \ell_{task}(z_h, y)

with the outputs z_h of each head and the loss of the task that each has by itself, as torchvision's GoogLeNet and
Inception are trained (Szegedy et al. 2015, arXiv 1409.4842: 1 and 0.3). Outputs are those of all heads one after the
other, (B, sum of their sizes); the first head is the one that predicts. A loss of the user's own may instead take
outputs of different shapes, as a dict by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakaudit.errors import UsageError
from leakaudit.tasks.base import Task
from leakaudit.tasks.heads_text import HeadTerm
from leakaudit.tasks.wrapped import WrappedTask


@dataclass(frozen=True)
class SeveralHeads(WrappedTask):
    """The weighted sum of a task's loss over several outputs.

    Labels are those of the task. What the first head predicts counts as predicted.

    Args:
        base: The task that each head has.
        heads: Their names and weights, the main one first.
        shapes: Of the outputs of each for one sample.
    """

    inference = "leakaudit.attacks.labels.by_head:infer_by_head"
    heads: tuple[HeadTerm, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def main(self) -> Task:
        """That of a head."""
        return self.base

    def over(self, main: Task) -> SeveralHeads:
        """The same sum of another task's losses."""
        return replace(self, base=main)

    @property
    def alike(self) -> bool:
        """Whether all heads have outputs of one shape, so that each has a loss of its own."""
        return len(set(self.shapes)) == 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers per sample of each head."""
        return tuple(math.prod(shape) for shape in self.shapes)

    def alone(self, place: int) -> Task:
        """The task whose loss is one term of the sum."""
        if self.heads[place].weight == 1:
            return self.base
        return replace(self, heads=(self.heads[place],), shapes=(self.shapes[place],))

    @property
    def sign_tells(self) -> bool:
        """Whether it does for a head, whose weight is above zero."""
        return self.alike and self.base.sign_tells

    @property
    def takes_shares(self) -> bool:
        """Whether each head's does."""
        return self.alike and self.base.takes_shares

    @property
    def outputs(self) -> int:
        """Those of all heads."""
        return sum(self.sizes)

    def parts(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs (B, outputs) of each head, (B, size)."""
        return torch.split(outputs, list(self.sizes), 1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum of the heads' mean losses, or the user's own loss of outputs by name."""
        parts = self.parts(outputs)
        if self.own is not None and not self.alike:
            shaped = zip(self.heads, parts, self.shapes, strict=True)
            return self.own({head.name: part.reshape(len(part), *shape) for head, part, shape in shaped}, labels)
        terms = [head.weight * self.base.loss(part, labels) for head, part in zip(self.heads, parts, strict=True)]
        return torch.stack(terms).sum()

    def by_class(self, outputs: Tensor) -> Tensor:
        """The first head's."""
        return self.base.by_class(self.parts(outputs)[0])

    def at_places(self, places: tuple[int, ...]) -> Task:
        """The same with heads of that many places each."""
        base = self.base.at_places(places)
        return self if base is self.base else replace(self, base=base, shapes=((base.outputs,),) * len(self.heads))

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """What the first head predicts."""
        return self.base.correct(self.parts(outputs)[0], labels)

    def behind(self, outputs: Tensor, errors: Tensor) -> Tensor:
        """The labels behind the first head's outputs and errors."""
        return self.base.behind(self.parts(outputs)[0], self.parts(errors)[0] / self.heads[0].weight)

    def describe(self) -> str:
        """The loss of each head, and the sum."""
        if self.own is not None and not self.alike:
            return f"{self.base.describe()} of {' and '.join(head.name for head in self.heads)}"
        return f"{self.base.describe()} of {' + '.join(head.describe() for head in self.heads)}"


def check_heads(task: Task, name: str) -> None:
    """Refuse heads of different shapes, unless a loss of the user's own takes them.

    Args:
        task: As it was asked for.
        name: The model's.

    Raises:
        UsageError: Says what they look like, and the way out.
    """
    if not isinstance(task, SeveralHeads) or task.alike:
        return
    shapes = ", ".join(f"{head.name} {list(shape)}" for head, shape in zip(task.heads, task.shapes, strict=True))
    if task.own is None or task.kind != "single-label":
        raise UsageError(
            f"--output sums outputs of {name} that differ in shape ({shapes}), expected one shape for one task's loss",
            "leave one out, or pass --task single-label and a --loss module:function of your own, which then takes a "
            "dict of the outputs by name",
        )
    if any(head.weight != 1 for head in task.heads):
        raise UsageError(
            f"--output weighs outputs of {name} that differ in shape ({shapes}), which the loss of your own takes as a "
            "dict",
            "weigh them in that function, and leave the weights out here",
        )
