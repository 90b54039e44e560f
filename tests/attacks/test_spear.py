"""SPEAR: exact batches, and nothing where it cannot be sure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.reading.columns import select, sparsify
from leakaudit.attacks.reading.factors import factorize, numerical_rank
from leakaudit.attacks.reading.first_layer import find_linears
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable, SilentMonitor
from tests.attacks.exact import confirmed_count, dropout_mlp, errors, judge, noise_batch, relu_mlp, seen
from tests.conftest import make_target, small_mlp

ATTACK = Spear(SpearSettings(starts=128, rounds=6))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_batches_are_exact(size: int, space: Images) -> None:
    target = make_target(relu_mlp(192), (3, 12, 12), 5)
    victim = noise_batch(size, seed=size)
    observation = seen(target, victim, space)
    assert ATTACK.applies(target, observation) is None
    result = ATTACK(target, observation, cpu_generator(0))
    assert result.exact
    assert result.residual < 1e-4
    assert judge(result, victim, space) == (size, 0)
    order = errors(result, victim, space).argmin(1)
    assert sorted(order.tolist()) == list(range(size))
    assert result.labels.tolist() == victim.labels[order].tolist()


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_dropout_does_not_hinder(p: float, space: Images) -> None:
    target = make_target(dropout_mlp(p, 192), (3, 12, 12), 5)
    victim = noise_batch(6)
    result = ATTACK(target, seen(target, victim, space, "train"), cpu_generator(0))
    assert judge(result, victim, space) == (6, 0)


def test_more_samples_than_independent_errors_are_not_claimed(space: Images) -> None:
    """With one hidden layer and two classes all errors are multiples of one vector where both samples are active."""
    target = make_target(relu_mlp(128, classes=2), (3, 12, 12), 2)
    victim = noise_batch(4, classes=2)
    result = ATTACK(target, seen(target, victim, space), cpu_generator(0))
    assert judge(result, victim, space)[1] == 0


def test_a_repeated_sample_lowers_the_rank_and_is_found_twice(space: Images) -> None:
    target = make_target(relu_mlp(), (3, 12, 12), 5)
    victim = noise_batch(3).subset([0, 0, 1])
    result = ATTACK(target, seen(target, victim, space), cpu_generator(0))
    assert confirmed_count(result) == 3
    assert judge(result, victim, space) == (3, 0)
    assert result.exact


def test_the_rank_is_the_batch_size(space: Images) -> None:
    target = make_target(relu_mlp(), (3, 12, 12), 5)
    entry = next(iter(find_linears(target)), None)
    assert entry is not None
    for size in (1, 2, 7, 16):
        observation = observe(target, noise_batch(size), FedSGD(size), space)
        assert factorize(observation, entry)[1] == size


def test_an_update_of_another_batch_is_not_claimed(space: Images) -> None:
    """A noisy update has full rank; a mixed-up bias gradient breaks the scale. Neither may be called exact."""
    target = make_target(relu_mlp(192), (3, 12, 12), 5)
    observation = seen(target, noise_batch(4), space)
    other = seen(target, noise_batch(4, seed=9), space)
    attack = Spear(SpearSettings(starts=64, rounds=1))
    mixed = replace(observation, update={**observation.update, "1.bias": other.update["1.bias"]})
    result = attack(target, mixed, cpu_generator(0))
    assert confirmed_count(result) == 0
    assert not result.exact
    generator = torch.Generator().manual_seed(0)
    noisy = {n: g + 1e-2 * g.std() * torch.randn(g.shape, generator=generator) for n, g in observation.update.items()}
    result = attack(target, replace(observation, update=noisy), cpu_generator(0))
    assert confirmed_count(result) == 0


def test_the_search_finds_a_planted_sparse_column() -> None:
    generator = torch.Generator().manual_seed(0)
    sparse = torch.randn((200, 6), generator=generator, dtype=torch.float64)
    sparse *= torch.rand((200, 6), generator=generator) < 0.5
    left = torch.linalg.qr(sparse).Q
    truth = torch.nn.functional.normalize(left.T @ sparse, dim=0)
    starts = torch.nn.functional.normalize(torch.randn((64, 6), generator=generator, dtype=torch.float64), dim=1)
    found = (sparsify(left, starts, 40) @ truth).abs().max(0).values
    assert float(found.min()) > 1 - 1e-9


def test_selection_skips_dependent_candidates() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64)
    assert torch.equal(select(rows, 3), rows[[0, 1, 3]])


def test_numerical_rank_is_the_widest_gap() -> None:
    assert numerical_rank(torch.tensor([5.0, 1.0, 0.01, 1e-8, 1e-9])) == 3
    assert numerical_rank(torch.zeros(4)) == 0


def test_refusals_name_the_reason(samples: Batch, space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    refusal = ATTACK.applies(target, seen(target, samples.subset([0, 1]), space))
    assert isinstance(refusal, NotApplicable)
    assert "ReLU" in refusal.reason
    torch.manual_seed(0)
    target = make_target(nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 5)), (3, 12, 12), 5)
    refusal = ATTACK.applies(target, seen(target, noise_batch(8), space))
    assert isinstance(refusal, NotApplicable)
    assert "16 units" in refusal.reason


class Impatient(SilentMonitor):
    def should_stop(self) -> bool:
        return True


def test_it_stops_when_told(space: Images) -> None:
    target = make_target(relu_mlp(64), (3, 12, 12), 5)
    observation = seen(target, noise_batch(24), space)
    result = Spear(SpearSettings(starts=4, rounds=50))(target, observation, cpu_generator(0), Impatient())
    assert "stopped after 1 of 50" in result.stopped
