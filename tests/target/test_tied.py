"""Other values for parameters that several modules share, or that a module registered twice holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leakaudit.target.inventory import inventory
from tests.conftest import make_target


class Tied(nn.Module):
    """Two linear layers with one weight: one module twice, or two modules that share it."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(48, 48)
        self.second = self.first if twice else nn.Linear(48, 48)
        self.second.weight = self.first.weight
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))
        return logits


@pytest.mark.parametrize("twice", [True, False], ids=["one module twice", "two modules"])
def test_other_values_reach_every_use_and_do_not_stay(twice: bool) -> None:
    target = make_target(Tied(twice), (3, 4, 4), 5)
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    before, names = target.logits(x), list(target.parameters)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in target.parameters.items()}
    assert not target.logits(x, zeros).any()
    doubled = {n: 2 * t.detach() if n == "first.weight" else t.detach() for n, t in target.parameters.items()}
    other = Tied(twice).eval()
    with torch.no_grad():
        other.first.weight.mul_(2)
    assert torch.equal(target.logits(x, doubled), make_target(other, (3, 4, 4), 5).logits(x))
    inventory(target)
    assert list(target.parameters) == names
    assert torch.equal(target.logits(x), before)
