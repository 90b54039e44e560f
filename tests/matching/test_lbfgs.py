"""Descents by L-BFGS against torch's own class."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from leakaudit.matching.lbfgs import lbfgs_descent
from tests.matching.build import imports_compiler

Objective = Callable[[Tensor], Tensor]


class _Enough(Exception):
    """Ends a descent."""


class _Counting:
    """An objective that keeps its values, and ends the descent after as many as asked."""

    def __init__(self, objective: Objective, most: int) -> None:
        self.objective, self.most, self.values = objective, most, list[float]()

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        with torch.enable_grad():
            leaf = point.detach().requires_grad_(True)
            value = self.objective(leaf)
            (gradient,) = torch.autograd.grad(value, [leaf])
        self.values.append(value.item())
        if len(self.values) >= self.most:
            raise _Enough
        return value.item(), gradient


def _valley(point: Tensor) -> Tensor:
    """Rosenbrock's function of many unknowns, which a line search has to bracket."""
    return (100 * (point[1:] - point[:-1] ** 2) ** 2 + (1 - point[:-1]) ** 2).sum()


def _waves(point: Tensor) -> Tensor:
    """A bowl with waves: steps overshoot, and pairs of negative curvature are left out."""
    return (0.1 * point.square() + torch.cos(3 * point)).sum() + 0.1 * point.sum().square()


def of_torch(counting: _Counting, start: Tensor, history: int) -> None:
    point = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        *([point], 1.0, counting.most, 2 * counting.most, 0, 0, history),
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, point.grad = counting(point)
        return torch.tensor(value, dtype=point.dtype)

    optimizer.step(closure)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("objective", [_valley, _waves])
@pytest.mark.parametrize("history", [3, 50])
def test_the_descent_is_that_of_torch(objective: Objective, history: int) -> None:
    start = 3 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own, theirs = _Counting(objective, 60), _Counting(objective, 60)
    for descend, counting in ((lbfgs_descent, own), (of_torch, theirs)):
        with suppress(_Enough):
            descend(counting, start, history)  # type: ignore[operator]
    assert min(len(own.values), len(theirs.values)) >= 15
    assert own.values[:15] == pytest.approx(theirs.values[:15], rel=1e-9)


def test_a_descent_ends_where_nothing_is_gained() -> None:
    """At the minimum, and from a start where the gradient is zero."""
    bowl = _Counting(lambda point: (point - 2).square().sum(), 100)
    found = lbfgs_descent(bowl, torch.zeros(5, dtype=torch.float64), 10)
    assert torch.allclose(found, torch.full_like(found, 2.0), atol=1e-6)
    assert len(bowl.values) < 20
    flat = _Counting(lambda point: point.sum() * 0, 100)
    assert torch.equal(lbfgs_descent(flat, torch.ones(3), 10), torch.ones(3))
    assert len(flat.values) == 1


def test_a_descent_does_not_import_the_compiler() -> None:
    assert not imports_compiler(
        "from leakaudit.matching.lbfgs import lbfgs_descent",
        "lbfgs_descent(lambda x: (float(x.square().sum()), 2 * x), torch.ones(3), 5)",
    )
