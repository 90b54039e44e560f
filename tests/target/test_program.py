"""The list of calls that a network read from a file is run by."""

from __future__ import annotations

import copy
import operator
import weakref
from typing import Any

import pytest
import torch
from onnx import helper

from leakaudit.errors import ModelError
from leakaudit.target.program import Builder, is_plain


def add(x: Any, y: Any = 0, *, factor: Any = 1) -> Any:
    return x + factor * y


def test_calls_lists_and_keywords() -> None:
    builder = Builder()
    x, y = builder.input(), builder.input()
    both = builder.call(torch.cat, [[x, y]], {"dim": 1})
    constant = builder.constant(torch.ones(2, 4))
    result = builder.call(add, [both, 3], {"factor": constant})
    program = builder.build(builder.call(add, [builder.call(add, [result]), both]))
    a, b = torch.rand(2, 2), torch.rand(2, 2)
    expected = torch.cat([a, b], 1)
    torch.testing.assert_close(program(a, b), 2 * expected + 3)
    torch.testing.assert_close(copy.deepcopy(program)(a, b), 2 * expected + 3)


def test_only_what_is_needed_runs_and_effects_always_do() -> None:
    ran: list[str] = []

    def note(x: Any, name: str) -> Any:
        ran.append(name)
        return x

    builder = Builder()
    x = builder.input()
    builder.call(note, [x, "unused"])
    builder.call(note, [x, "effect"], effect=True)
    assert builder.build(builder.call(note, [x, "used"]))(1) == 1
    assert ran == ["effect", "used"]


def test_values_are_let_go_after_their_last_use() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def made(x: torch.Tensor) -> torch.Tensor:
        result = x + 1
        kept.append(weakref.ref(result))
        return result

    def last(x: torch.Tensor) -> torch.Tensor:
        assert kept[0]() is None
        return x

    builder = Builder()
    program = builder.build(builder.call(last, [builder.call(torch.sum, [builder.call(made, [builder.input()])])]))
    assert float(program(torch.ones(3))) == 6


@pytest.mark.parametrize(
    "value",
    [helper.make_graph([], "g", [], []), [helper.make_graph([], "g", [], [])], object(), operator.add, {"a": 1}],
)
def test_anything_but_plain_data_is_refused(value: Any) -> None:
    builder = Builder()
    x = builder.input()
    assert not is_plain(value)
    with pytest.raises(ModelError, match="expected tensors, numbers"):
        builder.call(add, [x, value])
    with pytest.raises(ModelError, match="expected tensors, numbers"):
        builder.call(add, [x], {"factor": value})


@pytest.mark.parametrize(
    "value", [1, True, 1.5, "a", None, 1j, torch.float32, torch.device("cpu"), [1, [2.0, "b"]], (1, 2)]
)
def test_plain_data(value: Any) -> None:
    assert is_plain(value)
