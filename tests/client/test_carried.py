"""Momentum that a client keeps between rounds, told from what it sends."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.capture import record
from leakaudit.client.rounds.carried import Carried, Trained, carried_between

RATE = 0.1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(60, 12), nn.Flatten(), nn.Linear(48, 3))


def batch(seed: int, words: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Three texts of four tokens among some words."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(words)[torch.randint(len(words), (3, 4), generator=generator)]
    return chosen, torch.randint(3, (3,), generator=generator)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(module(inputs), labels).backward()
    optimizer.step()


def two_rounds(
    *, kept: bool, momentum: float = 0.9, same: bool = False, steps: int = 1, told_steps: bool = True
) -> list[Trained]:
    """Two rounds of one client that uses other words in the second, or the same."""
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=momentum)
    found = []
    for number in (1, 2):
        if not kept:
            optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=momentum)
        before = copy.deepcopy(dict(module.state_dict()))
        words = range(30) if same or number == 1 else range(20, 50)
        for k in range(steps):
            step(module, optimizer, *batch(k if same else number + 10 * k, list(words)))
        told = {"client": "site-1", "round": str(number)}
        after = copy.deepcopy(dict(module.state_dict()))
        found.append(
            Trained(f"round-{number}", told, before, after, "weights", momentum, steps if told_steps else None)
        )
    return found


def test_rows_that_nobody_touched_repeat_the_round_before() -> None:
    (found,) = carried_between(two_rounds(kept=True))
    assert isinstance(found, Carried)
    assert (found.earlier, found.later, found.tensor) == ("round-1", "round-2", "0.weight")
    assert found.factor == pytest.approx(0.9, rel=1e-4), "one step each: the momentum itself"
    assert found.rows >= 5


def test_several_steps_leave_factors_that_follow_from_the_momentum() -> None:
    """Rows of one step each repeat by a factor of that step; without the number of steps none is shared by most."""
    rounds = two_rounds(kept=True, momentum=0.5, steps=3)
    (found,) = carried_between(rounds)
    assert found.tensor == "0.weight"
    expected = [0.5**left * (1 - 0.5**3) / (1 - 0.5**left) for left in (1, 2, 3)]
    assert min(abs(found.factor - one) for one in expected) < 1e-3
    assert not list(carried_between(two_rounds(kept=False, momentum=0.5, steps=3)))


def test_without_the_settings_one_factor_is_found() -> None:
    (found,) = carried_between(two_rounds(kept=True, momentum=0.5, told_steps=False))
    assert found.factor == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("facts", [{"kept": False}, {"kept": True, "momentum": 0.0}, {"kept": False, "same": True}])
def test_an_optimizer_of_its_own_in_every_round_carries_nothing(facts: dict[str, bool]) -> None:
    assert not list(carried_between(two_rounds(**facts)))  # type: ignore[arg-type]


def test_a_client_of_one_sample_says_nothing() -> None:
    """All of its rows are multiples of the sample, in every round; from zero weights many by the same factor."""
    module = nn.Sequential(nn.Linear(20, 8))
    nn.init.zeros_(module[0].weight)
    nn.init.zeros_(module[0].bias)
    sample, label = torch.randn(1, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([2])
    found = []
    for number in (1, 2):
        before = copy.deepcopy(dict(module.state_dict()))
        step(module, torch.optim.SGD(module.parameters(), RATE), sample, label)
        told = {"client": 1, "round": number}
        found.append(Trained(str(number), told, before, copy.deepcopy(dict(module.state_dict())), "weights"))
    assert not list(carried_between(found))


@pytest.mark.parametrize(("client", "number"), [("site-2", 2), (None, 2), ("site-1", None), ("site-1", "later")])
def test_rounds_of_whom_nobody_knows_are_not_compared(client: object, number: object) -> None:
    first, second = two_rounds(kept=True)
    told = {"client": client, "round": number}
    other = Trained(second.label, told, second.before, second.shared, second.kind)
    assert not list(carried_between([first, other]))


def test_it_is_a_finding_with_a_page(tmp_path: Path) -> None:
    for one in two_rounds(kept=True):
        place = tmp_path / one.label
        settings = {"learning_rate": RATE, "momentum": 0.9, "num_examples": 3, "local_epochs": 1}
        assert record(one.before, one.shared, out=place, **one.told, **settings) is not None
    report = leakaudit.scan(network(), round=tmp_path, input_shape=(4,), attacks=["embedding"], controls="none")
    finding = next(f for f in report.findings if f.id == "LA410")
    assert "repeat an earlier round of the same client by the factor 0.9: its momentum was kept" in finding.message
    assert report.protocol.carried[0].factor == pytest.approx(0.9, rel=1e-4)
