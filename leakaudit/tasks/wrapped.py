"""A task that is another one, but for its loss over the outputs: what a label is stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from leakaudit.tasks.base import Task
from leakaudit.tasks.own_loss import OwnLoss

P = ParamSpec("P")
T = TypeVar("T")


def _passed_on(method: Callable[Concatenate[Task, P], T]) -> Callable[Concatenate[WrappedTask, P], T]:
    """A method that asks the task within for the same."""
    name = method.__name__

    def asked(self: WrappedTask, /, *args: P.args, **kwargs: P.kwargs) -> T:
        answer: T = getattr(self.base, name)(*args, **kwargs)
        return answer

    asked.__name__, asked.__doc__ = name, method.__doc__
    return asked


@dataclass(frozen=True)
class WrappedTask(Task):
    """Asks another task whatever is about labels; a subclass says what is about outputs, and the loss.

    Args:
        base: The other task.
    """

    base: Task

    @property
    def kind(self) -> str:  # type: ignore[override]
        """The task's."""
        return self.base.kind

    @property
    def name(self) -> str:  # type: ignore[override]
        """The task's."""
        return self.base.name

    @property
    def has(self) -> str:  # type: ignore[override]
        """The task's."""
        return self.base.has

    @property
    def label_reader(self) -> str:  # type: ignore[override]
        """The task's."""
        return self.base.label_reader

    @property
    def continuous(self) -> bool:  # type: ignore[override]
        """The task's."""
        return self.base.continuous

    @property
    def labelled(self) -> bool:  # type: ignore[override]
        """The task's."""
        return self.base.labelled

    @property
    def classes(self) -> int:  # type: ignore[override]
        """The task's."""
        return self.base.classes

    @property
    def own(self) -> OwnLoss | None:  # type: ignore[override]
        """The task's."""
        return self.base.own

    @property
    def places(self) -> tuple[int, ...]:  # type: ignore[override]
        """The task's."""
        return self.base.places

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The task's."""
        return self.base.label_shape

    @property
    def free_shape(self) -> tuple[int, ...]:
        """The task's."""
        return self.base.free_shape

    everywhere = _passed_on(Task.everywhere)
    of_inputs = _passed_on(Task.of_inputs)
    map_of = _passed_on(Task.map_of)
    hard = _passed_on(Task.hard)
    softened = _passed_on(Task.softened)
    relaxed = _passed_on(Task.relaxed)
    unbounded = _passed_on(Task.unbounded)
    loosened = _passed_on(Task.loosened)
    tightened = _passed_on(Task.tightened)
    free = _passed_on(Task.free)
    decided = _passed_on(Task.decided)
    draw = _passed_on(Task.draw)
    probes = _passed_on(Task.probes)
    match_labels = _passed_on(Task.match_labels)
    tally = _passed_on(Task.tally)
    classes_in = _passed_on(Task.classes_in)
    rows = _passed_on(Task.rows)
