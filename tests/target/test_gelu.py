"""GELU that an exporter wrote out runs as one operator; what only looks like it stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.target.onnx.gelu import with_gelu
from leakaudit.target.onnx.ops.elementwise import add, div, mul
from leakaudit.target.program import Builder, Program, Slot

ROOT = 1.4142135381698608
"""√2 as float32 has it, and exporters write it."""
Form = Callable[[Builder, Slot], Slot]


def erf(builder: Builder, x: Slot) -> Slot:
    scaled = builder.call(div, [x, ROOT])
    return builder.call(add, [builder.call(torch.erf, [scaled]), 1.0])


def behind(builder: Builder, x: Slot) -> Slot:
    return builder.call(mul, [builder.call(mul, [x, erf(builder, x)]), 0.5])


def within(builder: Builder, x: Slot) -> Slot:
    return builder.call(mul, [x, builder.call(mul, [0.5, erf(builder, x)])])


def before(builder: Builder, x: Slot) -> Slot:
    return builder.call(mul, [builder.call(mul, [x, 0.5]), erf(builder, x)])


def multiplied(builder: Builder, x: Slot) -> Slot:
    scaled = builder.call(mul, [1 / ROOT, x])
    more = builder.call(add, [1, builder.call(torch.erf, [scaled])])
    return builder.call(mul, [builder.call(mul, [more, x]), 0.5])


def programs(form: Form) -> tuple[Program, Program]:
    """As written, and with GELU as one; linear in front, so that x is a value in between."""
    made = []
    for rewritten in (None, with_gelu):
        builder = Builder()
        x = builder.input()
        made.append(builder.build(form(builder, builder.call(mul, [x, 3.0])), rewritten))
    return made[0], made[1]


def derivatives(program: Program, x: Tensor) -> tuple[Tensor, ...]:
    """Value, and what two derivatives in a row give."""
    leaf = x.clone().requires_grad_(True)
    value = program(leaf)
    (first,) = torch.autograd.grad(value.square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    return value.detach(), first.detach(), second


@pytest.mark.parametrize("form", [behind, within, before, multiplied])
def test_every_order_of_the_product_is_one_call_with_the_same_derivatives(form: Form) -> None:
    written, whole = programs(form)
    assert [call.run for call in whole.calls] == [mul, F.gelu]
    x = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, other in zip(derivatives(written, x), derivatives(whole, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_several_in_a_row_are_one_call_each() -> None:
    _, whole = programs(lambda builder, x: behind(builder, within(builder, before(builder, x))))
    assert [call.run for call in whole.calls] == [mul, F.gelu, F.gelu, F.gelu]


def used_elsewhere(builder: Builder, x: Slot) -> Slot:
    more = erf(builder, x)
    product = builder.call(mul, [builder.call(mul, [x, more]), 0.5])
    return builder.call(add, [product, more])


def other_root(builder: Builder, x: Slot) -> Slot:
    more = builder.call(add, [builder.call(torch.erf, [builder.call(div, [x, 1.5])]), 1.0])
    return builder.call(mul, [builder.call(mul, [x, more]), 0.5])


def other_half(builder: Builder, x: Slot) -> Slot:
    return builder.call(mul, [builder.call(mul, [x, erf(builder, x)]), 0.6])


def other_sum(builder: Builder, x: Slot) -> Slot:
    more = builder.call(add, [erf(builder, x), 1.0])
    return builder.call(mul, [builder.call(mul, [x, more]), 0.5])


def reciprocal(builder: Builder, x: Slot) -> Slot:
    more = builder.call(add, [builder.call(torch.erf, [builder.call(div, [ROOT, x])]), 1.0])
    return builder.call(mul, [builder.call(mul, [x, more]), 0.5])


def another_value(builder: Builder, x: Slot) -> Slot:
    y = builder.call(add, [x, 1.0])
    return builder.call(mul, [builder.call(mul, [y, erf(builder, x)]), 0.5])


def at_the_end(builder: Builder, x: Slot) -> Slot:
    return builder.call(mul, [x, erf(builder, x)])


def dropped(builder: Builder, x: Slot) -> Slot:
    more = builder.call(torch.nn.Identity(), [erf(builder, x)])
    return builder.call(mul, [builder.call(mul, [x, more]), 0.5])


@pytest.mark.parametrize(
    "form", [used_elsewhere, other_root, other_half, other_sum, reciprocal, another_value, at_the_end, dropped]
)
def test_anything_else_stays_as_it_is(form: Form) -> None:
    written, whole = programs(form)
    assert [call.run.__class__ for call in whole.calls] == [call.run.__class__ for call in written.calls]
    assert F.gelu not in [call.run for call in whole.calls]
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(written(x), whole(x))
