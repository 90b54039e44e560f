"""The contract of a task: from a model's outputs and labels to the loss, and back from an update to the labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.tasks.own_loss import OwnLoss


@dataclass(frozen=True, eq=False)
class LabelGuess:
    """Labels inferred from an update.

    Args:
        labels: (B, *label_shape), of classes in ascending order; the update does not tell which sample has which.
        method: The rule that gave them.
        exact: Whether the rule is exact for an undefended update.
        soft: Class probabilities (1, K) where the label of a single sample is not one class, else ``None``.
        assumed: Whether nothing in the update tells them and they were taken for granted; they are then no inference.
        errors: The error at the outputs ∂ℓ/∂z (B, outputs) of each sample's own loss, where the update tells it and not
            the label: the label then follows from the outputs, once an attack has the inputs.
        open: Whether attacks have to find the labels beside the inputs; `labels` are where they begin.
    """

    labels: Tensor
    method: str
    exact: bool
    soft: Tensor | None = None
    assumed: bool = False
    errors: Tensor | None = None
    open: bool = False


@dataclass(frozen=True)
class Tally:
    """How many of a batch's labels were inferred right.

    Args:
        right: Those that are.
        total: All of them.
        chance: Share that the best guess without the update has right, or ``None`` where 1/K stands for it.
    """

    right: int
    total: int
    chance: float | None = None


def each_once(near: Tensor) -> tuple[bool, ...]:
    """Of every true label, whether an inferred one agrees with it (B, B'), each of which counts once."""
    free, found = list(range(near.shape[1])), []
    for row in near.tolist():
        place = next((j for j in free if row[j]), None)
        found.append(place is not None)
        if place is not None:
            free.remove(place)
    return tuple(found)


def rows_once(true: Tensor, inferred: Tensor) -> tuple[bool, ...]:
    """Of every row of a true label (B, D), whether it is among the inferred ones, each of which counts once."""
    left, found = Counter(map(tuple, inferred.tolist())), []
    for row in map(tuple, true.tolist()):
        found.append(left[row] > 0)
        left[row] -= 1
    return tuple(found)


class Task(ABC):
    """What a label is and which loss is minimised. Implementations are frozen dataclasses that hash and pickle.

    A target holds its task, and what reads labels from an update is built on targets. So that reader is named by text,
    and targets and observations are passed on as they are.
    """

    kind: ClassVar[str]
    """The name on the command line, and in `leakaudit.attacks.base.Attack.tasks`."""
    name: ClassVar[str]
    """For messages."""
    has: ClassVar[str]
    """What a sample of it is labelled with, for sentences."""
    label_reader: ClassVar[str] = "leakaudit.client.readers.labels:one_class"
    """What checks the labels of a file, as ``package.module:function`` of task, array, number of samples and place."""
    inference: ClassVar[str]
    """What reads the labels behind an update, as ``package.module:function`` of target, observation and generator."""
    continuous: ClassVar[bool] = False
    """Whether labels are numbers that may vary a little, so unknowns beside the inputs."""
    classes: int
    """Number of classes K; 0 where labels are no classes."""
    own: OwnLoss | None = None
    """The user's own loss, in place of the task's."""
    labelled: ClassVar[bool] = True
    """Whether samples need labels of their own; else these follow from the inputs, see :meth:`of_inputs`."""
    places: tuple[int, ...] = ()
    """Sizes of the axes over which a sample has a label each; empty where it has one label."""

    @property
    def main(self) -> Task:
        """Itself; of a loss over several heads, the task of each of them."""
        return self

    def over(self, main: Task) -> Task:
        """The same with another task in place of :attr:`main`."""
        return main

    @property
    def plain(self) -> bool:
        """Whether the error at the outputs is the prediction minus the label: cross-entropy with nothing added."""
        return False

    @property
    def sign_tells(self) -> bool:
        """Whether the sign of the error at the outputs tells the labels, whatever the outputs are."""
        return False

    @property
    def takes_shares(self) -> bool:
        """Whether the loss also takes what :meth:`relaxed` makes, so that labels can be unknowns beside the inputs."""
        return self.own is None

    @property
    @abstractmethod
    def label_shape(self) -> tuple[int, ...]:
        """Of one label, without the batch axis."""

    @property
    def free_shape(self) -> tuple[int, ...]:
        """Of the unknowns of one sample that :meth:`relaxed` makes a label of."""
        return self.label_shape or (self.classes,)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the model returns per sample."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss, a scalar, of outputs (B, …) against labels (B, *label_shape), or class probabilities (B, K)."""

    def by_class(self, outputs: Tensor) -> Tensor:
        """Outputs (B, outputs) as rows (N, channels), one for each thing that is classified."""
        return outputs

    def everywhere(self, shares: Tensor, count: int) -> Tensor:
        """Labels of so many samples that all have the same shares of the classes (K,)."""
        return shares.expand(count, -1)

    def at_places(self, places: tuple[int, ...]) -> Task:
        """The same for samples of other sizes; itself where labels have no places."""
        return self

    def of_inputs(self, inputs: Tensor) -> Tensor | None:
        """The labels (B, *label_shape) that inputs (B, *shape) have by themselves; ``None`` where they say none."""
        return None

    def map_of(self, label: Tensor) -> Tensor | None:
        """A label (*label_shape) as a map of class indices over places, to be drawn; ``None`` where it is none."""
        return None

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The error ∂ℓ/∂z (B, outputs) of each sample's own loss, from outputs (B, outputs) and labels."""
        rows: list[Tensor] = []
        for row, label in zip(outputs.detach(), labels, strict=True):
            leaf = row[None].clone().requires_grad_()
            rows += torch.autograd.grad(self.loss(leaf, label[None]), [leaf])
        return torch.cat(rows)

    @abstractmethod
    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Of every sample (B,), the share of its labels that outputs (B, …) predict; ``None`` where none is right."""

    def hard(self, labels: Tensor) -> Tensor:
        """Labels (B, *label_shape) of the same; of class probabilities the class with the largest share."""
        return labels.argmax(1) if labels.is_floating_point() else labels

    def softened(self, true: Tensor, assumed: Tensor) -> bool:
        """Whether labels are class probabilities and were assumed to be single classes."""
        return true.is_floating_point() and not assumed.is_floating_point()

    def relaxed(self, free: Tensor) -> Tensor:
        """Labels that an optimisation is at, differentiable, from unknowns without limits (B, …)."""
        return free.softmax(1)

    def unbounded(self, labels: Tensor) -> Tensor:
        """The unknowns of :meth:`relaxed` for labels (B, …) that it makes, or the nearest that it makes."""
        return labels.clamp_min(torch.finfo(labels.dtype).tiny).log()

    def loosened(self, labels: Tensor) -> Tensor:
        """Relaxed labels as independent numbers: of shares, which sum to one, all but the last (B, K - 1, …)."""
        return labels[:, :-1]

    def tightened(self, loose: Tensor) -> Tensor:
        """Labels (B, K, …) from independent numbers, which may lie beyond the limits of labels."""
        return torch.cat([loose, 1 - loose.sum(1, keepdim=True)], 1)

    def free(self, labels: Tensor) -> Tensor:
        """Unknowns whose :meth:`relaxed` labels are these (B, *label_shape), where an optimisation begins.

        Raises:
            ValueError: It does not begin at labels.
        """
        raise ValueError(f"labels of {self.name} are not optimised from a start")

    def decided(self, free: Tensor, begin: Tensor) -> Tensor:
        """The labels (B, *label_shape) that an optimisation ended at, which began at others."""
        return free.argmax(1)

    def behind(self, outputs: Tensor, errors: Tensor) -> Tensor:
        """The labels (B, *label_shape) of samples with these outputs (B, …) and errors ∂ℓ/∂z (B, …).

        Raises:
            ValueError: They are found by trying every class.
        """
        raise ValueError(f"labels of {self.name} are found by trying every class")

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> Tensor:
        """Random labels (count, *label_shape)."""

    @abstractmethod
    def probes(self, count: int) -> Tensor:
        """Labels (count, *label_shape) of no meaning, always the same, not all alike: to try a model with."""

    def infer(self, target: Any, observation: Any, generator: Generator) -> LabelGuess:
        """The labels behind an update; never looks at the batch.

        Args:
            target: The `leakaudit.target.target.Target`, in the mode of the protocol.
            observation: The `leakaudit.observation.Observation`.
            generator: CPU generator of whatever is drawn on the way.
        """
        guess: LabelGuess = resolve_name(self.inference)(target, observation, generator)
        return guess

    @abstractmethod
    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool | None, ...]:
        """Of every true label (B,), whether it is among the inferred ones, each of which counts once.

        The update does not tell which sample has which label, so labels are right as a multiset, not by place. ``None``
        where nothing was said of single samples.
        """

    @abstractmethod
    def tally(self, true: Tensor, inferred: Tensor) -> Tally:
        """How many of the labels (B, *label_shape) are right, in any order of the samples."""

    @abstractmethod
    def classes_in(self, labels: Tensor) -> list[int]:
        """Classes that labels (B, *label_shape) hold, ascending, each as often as it occurs; none of numbers."""

    def rows(self, labels: Tensor) -> list[list[float]] | None:
        """Labels (B, *label_shape) as numbers, a row per sample; ``None`` where :meth:`classes_in` says them."""
        return None

    @abstractmethod
    def describe(self) -> str:
        """The loss, for the report."""
