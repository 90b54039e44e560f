"""What a child has found out by running a model, told to the parent so that it need not run it again.

Loading a file means running its network forwards and backwards on random inputs (`leakaudit.target.probe`), and once by
another implementation (`leakaudit.target.onnx.selfcheck`). Where that is done in a process of its own
(`leakaudit.safety.confined`), the answers are recorded there, handed over as plain values, and given in the same order
while the parent loads the same file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Answers = list[tuple[str, Any]]
"""Names of questions, each with its answer as a plain value."""


class _State:
    """What is being recorded or given in this process; neither by default."""

    recorded: Answers | None = None
    given: Iterator[tuple[str, Any]] | None = None


def answered(kind: type[Any] | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator of a question about a model, whose answer can be recorded and given.

    Args:
        kind: The dataclass of plain fields that an answer, or each entry of its list, is, where it is not ``None``;
            ``None`` for plain answers.
    """

    def decorate(question: Callable[P, T]) -> Callable[P, T]:
        @wraps(question)
        def ask(*args: P.args, **kwargs: P.kwargs) -> T:
            if _State.given is not None:
                name, answer = next(_State.given, ("", None))
                if name == question.__name__:
                    return _revived(answer, kind)  # type: ignore[no-any-return]
                _State.given = None  # another way was taken than in the child: ask from here on
            outer, _State.recorded = _State.recorded, None  # questions within a question are part of its answer
            try:
                found = question(*args, **kwargs)
            finally:
                _State.recorded = outer
            if outer is not None:
                outer.append((question.__name__, _plain(found)))
            return found

        return ask

    return decorate


@contextmanager
def recording() -> Iterator[Answers]:
    """Inside, answers are put into the list that is given."""
    before, _State.recorded = _State.recorded, []
    try:
        yield _State.recorded
    finally:
        _State.recorded = before


@contextmanager
def giving(answers: Answers) -> Iterator[None]:
    """Inside, these answers are given instead of asking, as long as the questions come in their order."""
    before, _State.given = _State.given, iter(answers)
    try:
        yield
    finally:
        _State.given = before


def _plain(found: Any) -> Any:
    """An answer in which dataclasses are lists of their fields."""
    if isinstance(found, list):
        return [_plain(item) for item in found]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return [getattr(found, item.name) for item in dataclasses.fields(found)]
    return found


def _revived(answer: Any, kind: type[Any] | None) -> Any:
    """The answer with its dataclasses; a list of lists is a list of them."""
    if kind is None or answer is None:
        return answer
    if answer and not isinstance(answer[0], list):
        return kind(*answer)
    return [kind(*item) for item in answer]
