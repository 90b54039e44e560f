"""The contract of a task: from a model's outputs and labels to the loss, and back from an update to the labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, ClassVar

from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class LabelGuess:
    """Labels inferred from an update.

    Args:
        labels: Class indices (B,), in ascending order; the update does not tell which sample has which.
        method: The rule that gave them.
        exact: Whether the rule is exact for an undefended update.
        soft: Class probabilities (1, K) where the label of a single sample is not one class, else ``None``.
        assumed: Whether nothing in the update tells them and they were taken for granted; they are then no inference.
    """

    labels: Tensor
    method: str
    exact: bool
    soft: Tensor | None = None
    assumed: bool = False


class Task(ABC):
    """What a label is and which loss is minimised. Implementations are frozen dataclasses that hash and pickle.

    A target holds its task, and what reads labels from an update is built on targets. So that reader is named by text,
    and targets and observations are passed on as they are.
    """

    name: ClassVar[str]
    """For messages."""
    inference: ClassVar[str]
    """What reads the labels behind an update, as ``package.module:function`` of target, observation and generator."""
    classes: int
    """Number of classes K."""

    @property
    @abstractmethod
    def label_shape(self) -> tuple[int, ...]:
        """Of one label, without the batch axis."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the model returns per sample."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss, a scalar, of outputs (B, …) against labels (B, *label_shape), or class probabilities (B, K)."""

    @abstractmethod
    def predicted(self, outputs: Tensor) -> Tensor:
        """The labels (B, *label_shape) that the outputs (B, …) amount to."""

    def hard(self, labels: Tensor) -> Tensor:
        """Labels (B, *label_shape) of the same; of class probabilities the class with the largest share."""
        return labels.argmax(1) if labels.is_floating_point() else labels

    def softened(self, true: Tensor, assumed: Tensor) -> bool:
        """Whether labels are class probabilities and were assumed to be single classes."""
        return true.is_floating_point() and not assumed.is_floating_point()

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> Tensor:
        """Random labels (count, *label_shape)."""

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
    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool, ...]:
        """Of every true label (B,), whether it is among the inferred ones, each of which counts once.

        The update does not tell which sample has which label, so labels are right as a multiset, not by place.
        """

    @abstractmethod
    def describe(self) -> str:
        """The loss, for the report."""
