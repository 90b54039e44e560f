r"""GELU that an exporter wrote out as five operators, run as one.

.. math:: x \cdot \tfrac12 \big(1 + \mathrm{erf}(x / \sqrt 2)\big)

Files of operator sets before 20 have no GELU of their own. The sum takes half as long whole: a step of gradient
matching differentiates each of the five operators twice. The function is the same to rounding.

Fails, and then leaves the operators as they are, where a value in between is used elsewhere too, where dropout stands
behind one of them, or where the constants are others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from leakaudit.target.onnx.ops.elementwise import add, div, mul
from leakaudit.target.program import Call

CLOSE = 1e-6
"""Relative difference of a constant from the exact one; chosen: float32 tells numbers 6e-8 apart."""


def with_gelu(calls: Sequence[Call], table: Sequence[Any], result: int) -> list[Call]:
    """The calls of a program with each written-out GELU as one call.

    Args:
        calls: In order of execution.
        table: Values that are known beforehand, by place.
        result: Place of the program's result.
    """
    graph = _Graph(calls, table, result)
    kept: dict[int, Call | None] = {}
    for call in calls:
        if call.run is torch.erf and (found := graph.gelu(call)) is not None:
            source, parts = found
            kept |= dict.fromkeys((part.result for part in parts), None)
            last = parts[-1].result
            kept[last] = Call(F.gelu, (source,), {}, {}, last)
    changed = [kept.get(call.result, call) for call in calls]
    return [call for call in changed if call is not None]


class _Graph:
    """Calls by what they make and by what they read."""

    def __init__(self, calls: Sequence[Call], table: Sequence[Any], result: int) -> None:
        self.table = table
        self.made = {call.result: call for call in calls}
        self.readers: dict[int, list[Call | None]] = {result: [None]}
        for call in calls:
            for place in call.reads():
                self.readers.setdefault(place, []).append(call)

    def gelu(self, erf: Call) -> tuple[int, list[Call]] | None:
        """The place of x and the calls, the last one behind all others, or ``None`` where it is something else."""
        scaled = self.made.get(erf.arguments[0])
        if scaled is None or self._only_reader(scaled) is not erf or (source := self._root_half(scaled)) is None:
            return None
        more = self._only_reader(erf)
        if more is None or more.run is not add or self._beside(more, erf.result, 1.0) is None:
            return None
        first = self._only_reader(more)
        if first is None or first.run is not mul or (other := self._other(first, more.result)) is None:
            return None
        parts = [scaled, erf, more]
        halved = self.made.get(other)
        if halved is not None and halved.run is mul and self._beside(halved, source, 0.5) is not None:
            return (source, [*parts, halved, first]) if self._only_reader(halved) is first else None
        last = self._only_reader(first)
        if last is None or last.run is not mul or (second := self._other(last, first.result)) is None:
            return None
        whole = (other == source and self._is(second, 0.5)) or (second == source and self._is(other, 0.5))
        return (source, [*parts, first, last]) if whole else None

    def _root_half(self, call: Call) -> int | None:
        """The place of x where a call makes x/√2 of it."""
        if not _plain(call):
            return None
        one, other = call.arguments
        if call.run is div:
            return one if self._is(other, math.sqrt(2)) else None
        if call.run is not mul:
            return None
        root = math.sqrt(0.5)
        return one if self._is(other, root) else other if self._is(one, root) else None

    def _beside(self, call: Call, place: int, number: float) -> int | None:
        """The other place that a call reads, where it holds this number."""
        other = self._other(call, place)
        return other if other is not None and self._is(other, number) else None

    def _other(self, call: Call, place: int) -> int | None:
        """What else a call of two arguments reads."""
        if not _plain(call) or place not in call.arguments:
            return None
        one, other = call.arguments
        return other if one == place else one

    def _only_reader(self, call: Call) -> Call | None:
        """Who alone reads the result of a call."""
        readers = self.readers.get(call.result, [])
        return readers[0] if len(readers) == 1 else None

    def _is(self, place: int, number: float) -> bool:
        value = self.table[place]
        return isinstance(value, int | float) and math.isclose(value, number, rel_tol=CLOSE)


def _plain(call: Call) -> bool:
    """Whether a call takes two arguments and no setting."""
    return len(call.arguments) == 2 and not (call.keywords or call.named)
