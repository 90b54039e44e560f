"""Memory that could not be had says nothing of a model: whatever is tried on one does not take it for an answer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.target.consumer import consumer
from leakaudit.target.functional import capture_functional
from leakaudit.target.probabilities import without_probabilities

TARGET = Path(leakaudit.__file__).parent / "target"


class Greedy(nn.Module):
    """Asks for more than any machine has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.empty(1 << 60) + x.sum()


def test_what_is_tried_on_a_model_is_not_answered_by_a_lack_of_memory() -> None:
    with pytest.raises(MemoryError):
        consumer(Greedy(), (3, 8, 8), 1)
    with pytest.raises(MemoryError):
        capture_functional(Greedy(), (3, 8, 8))
    with pytest.raises(MemoryError):
        without_probabilities(Greedy(), (1,), (3, 8, 8))


def swallowed(tree: ast.AST) -> Iterator[int]:
    """Lines at which a RuntimeError, also torch's word for a lack of memory, is neither raised again nor looked at."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None and "RuntimeError" in ast.unparse(node.type):
            inside = [part for statement in node.body for part in ast.walk(statement)]
            asked = any(isinstance(part, ast.Name) and part.id == "refuse_exhaustion" for part in inside)
            if not asked and not any(isinstance(part, ast.Raise) for part in inside):
                yield node.lineno


def test_every_attempt_asks_why_it_failed() -> None:
    found = [
        f"{file.relative_to(TARGET)}:{line}"
        for file in TARGET.rglob("*.py")
        for line in swallowed(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []
    assert list(swallowed(ast.parse("try:\n    f()\nexcept (ValueError, RuntimeError):\n    pass")))
