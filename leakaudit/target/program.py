"""A network read from a file, as a list of calls that is interpreted: no Python source is ever made from a file.

Claim: nothing that a file says is compiled. ``torch.fx`` writes a graph's attributes and names into Python source and
executes it; a `Program` keeps a table of values and a list of calls instead. A value is known by its position in the
table, a function was chosen by the reader from those that it knows, and arguments are tensors or plain data.

Costs 0.15 µs a call more than compiled source, where an operator of torch takes 5 µs and more; nothing once a step is
recorded (`leakaudit.matching.step`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from leakaudit.errors import ModelError

_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True)
class Slot:
    """The place of a value in the table of a program."""

    index: int


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a string, a torch constant, ``None`` or a list of these."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in _PLAIN


def listed(*items: Any) -> list[Any]:
    """The arguments as a list."""
    return list(items)


@dataclass(frozen=True)
class Call:
    """One call of a program.

    Args:
        run: The function or layer.
        arguments: Places of the positional arguments.
        keywords: Plain keyword arguments.
        named: Places of the other keyword arguments.
        result: Place of what it returns.
        effect: Whether it must run although nobody reads its result, because it writes into an argument.
    """

    run: Callable[..., Any]
    arguments: tuple[int, ...]
    keywords: Mapping[str, Any]
    named: Mapping[str, int]
    result: int
    effect: bool = False

    def reads(self) -> Iterator[int]:
        """Places that it reads."""
        yield from self.arguments
        yield from self.named.values()


class Program:
    """A list of calls over a table of values.

    Args:
        table: The values that are known beforehand, by place; ``None`` elsewhere. The inputs come first.
        inputs: How many inputs there are.
        calls: In order of execution.
        result: Place of the result.
    """

    def __init__(self, table: Sequence[Any], inputs: int, calls: Sequence[Call], result: int) -> None:
        self.table, self.inputs, self.calls, self.result = list(table), inputs, tuple(calls), result
        self._steps, self._out = self._planned()

    def _planned(self) -> tuple[list[_Step], int]:
        """The calls over registers: a result takes the place of a value that is read for the last time."""
        last = {place: call for call in self.calls for place in call.reads()}
        computed = {call.result for call in self.calls} - {self.result}
        register = list(range(len(self.table)))
        steps: list[_Step] = []
        for call in self.calls:
            finished = [place for place in {*call.reads()} & computed if last[place] is call]
            single = len(call.arguments) == 1 and not call.named
            places = [register[place] for place in call.arguments]
            run = _applied(call, {key: register[place] for key, place in call.named.items()}, places)
            if call.named:
                fetch, single = None, False
            else:
                fetch = None if single or not places else itemgetter(*places)
            free = [register[place] for place in finished]
            if free:
                register[call.result] = free.pop()
            steps.append((run, places[0] if single else -1, fetch, register[call.result], tuple(free)))
        return steps, register[self.result]

    def __call__(self, *inputs: Any) -> Any:
        """Run the calls on the inputs, in the order in which the builder took them."""
        values = self.table.copy()
        values[: self.inputs] = inputs
        for run, one, fetch, result, free in self._steps:
            if one >= 0:
                values[result] = run(values[one])
            elif fetch is not None:
                values[result] = run(*fetch(values))
            else:
                values[result] = run(values)
            for place in free:
                values[place] = None
        return values[self._out]


_Step = tuple[Callable[..., Any], int, Callable[[list[Any]], tuple[Any, ...]] | None, int, tuple[int, ...]]
"""What runs, the place of its only argument or -1, what takes its arguments from the table, where its result goes, and
what is let go then. Where neither says what it takes, it takes the table."""


def _applied(call: Call, named: Mapping[str, int], places: Sequence[int]) -> Callable[..., Any]:
    """The function of a call with its keywords in place; one of the table where tensors are keywords, or nothing is."""
    run = partial(call.run, **call.keywords) if call.keywords else call.run
    if places and not named:
        return run

    def of_table(values: list[Any]) -> Any:
        return run(*[values[place] for place in places], **{key: values[place] for key, place in named.items()})

    return of_table


Rewriting = Callable[[Sequence[Call], Sequence[Any], int], Sequence[Call]]
"""Calls that make the same of a table, from calls in order, the table, and the place of their result."""


@dataclass
class Builder:
    """Collects the calls of a `Program`; all inputs must be asked for before anything else."""

    table: list[Any] = field(default_factory=list)
    inputs: int = 0
    calls: list[Call] = field(default_factory=list)

    def input(self) -> Slot:
        """A further input."""
        assert self.inputs == len(self.table)
        self.inputs += 1
        return self._place(None)

    def constant(self, value: Tensor) -> Slot:
        """A tensor that is part of the program."""
        return self._place(value)

    def call(
        self,
        run: Callable[..., Any],
        arguments: Sequence[Any],
        keywords: Mapping[str, Any] | None = None,
        *,
        effect: bool = False,
    ) -> Slot:
        """Append a call; arguments and keywords are `Slot`, plain data, or lists of both.

        Raises:
            ModelError: Anything else, such as a graph in an attribute.
        """
        places = tuple(self._argument(argument).index for argument in arguments)
        named = {key: self._argument(value).index for key, value in (keywords or {}).items() if _has_slot(value)}
        fixed = {key: _plain(value) for key, value in (keywords or {}).items() if key not in named}
        slot = self._place(None)
        self.calls.append(Call(run, places, fixed, named, slot.index, effect))
        return slot

    def build(self, result: Slot, rewritten: Rewriting | None = None) -> Program:
        """The program, without the calls that its result does not depend on, the others as they are rewritten."""
        needed, kept = {result.index}, []
        for call in reversed(self.calls):
            if call.result in needed or call.effect:
                kept.append(call)
                needed.update(call.reads())
        calls = kept[::-1] if rewritten is None else rewritten(kept[::-1], self.table, result.index)
        return Program(self.table, self.inputs, calls, result.index)

    def _place(self, value: Any) -> Slot:
        self.table.append(value)
        return Slot(len(self.table) - 1)

    def _argument(self, value: Any) -> Slot:
        if isinstance(value, Slot):
            return value
        if _has_slot(value):
            return self.call(listed, value)
        return self._place(_plain(value))


def _has_slot(value: Any) -> bool:
    return isinstance(value, Slot) or (isinstance(value, list | tuple) and any(_has_slot(item) for item in value))


def _plain(value: Any) -> Any:
    if not is_plain(value):
        raise ModelError(
            f"an operator is given a {type(value).__name__}, expected tensors, numbers, strings or lists of these",
            "the file is damaged or hostile",
        )
    return value
