"""The mean of several clients' updates, in units of a gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.protocols.aggregated import Aggregated
from leakaudit.protocols.base import Play, Update
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from tests.conftest import make_target, small_cnn

CLIENT = FedAvg(2, local_epochs=2, local_batch_size=2, learning_rate=0.1, momentum=0.9, weight_decay=1e-3)


def members(protocol: FedAvg, sizes: tuple[int, ...]) -> list[FedAvg]:
    return [replace(protocol, batch_size=size) for size in sizes]


def play_of(samples: Batch, space: Images, protocol: Aggregated) -> Play:
    order = protocol.order(torch.Generator().manual_seed(3), protocol.batch_size)
    return Play(space.encode(samples.images[: protocol.batch_size]), samples.labels[: protocol.batch_size], order)


def before_of(target: Target) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in target.parameters.items()}


def same(one: Update, other: Update) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 6.0, 4.0)])
def test_what_moves_is_the_weighted_mean_of_what_each_moves(
    samples: Batch, space: Images, weights: tuple[float, ...]
) -> None:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    protocol = Aggregated.of(members(CLIENT, (2, 6, 4)), weights)
    play, before = play_of(samples, space, protocol), before_of(target)
    update = protocol.update(target, play)
    moved = protocol.moved(update, before)
    assert moved is not None
    total = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for own, part, weight in zip(protocol.members, protocol.plays(play), weights, strict=True):
        each = own.moved(own.update(target, part), before)
        assert each is not None
        total = {name: total[name] + weight / sum(weights) * tensor for name, tensor in each.items()}
    same(moved, total)
    same(protocol.learnt(moved, before), update)
    delta = protocol.sharing("delta")
    same(delta.from_shared(moved, before), update)
    same(protocol.from_shared({name: before[name] + t for name, t in moved.items()}, before), update)


def test_equal_single_steps_are_the_gradient_of_all(samples: Batch, space: Images) -> None:
    """FedSGD in disguise, four times."""
    target = make_target(small_cnn(), (3, 12, 12), 5)
    protocol = Aggregated.of([FedAvg(2, learning_rate=0.5)] * 4, (1.0,) * 4)
    play = play_of(samples, space, protocol)
    joint = FedSGD(8).update(target, play)
    for name, tensor in protocol.update(target, play).items():
        torch.testing.assert_close(tensor, joint[name], rtol=1e-3, atol=2e-6)


def test_it_can_be_differentiated_by_the_samples(samples: Batch, space: Images) -> None:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    protocol = Aggregated.of(members(CLIENT, (2, 2)), (1.0, 1.0))
    play = play_of(samples, space, protocol)
    inputs = play.inputs.clone().requires_grad_()
    update = protocol.update(target, replace(play, inputs=inputs), create_graph=True)
    (slope,) = torch.autograd.grad(sum(t.square().sum() for t in update.values()), [inputs])
    assert all(bool(each.any()) for each in slope)


def test_each_client_visits_its_own_samples() -> None:
    protocol = Aggregated.of(members(CLIENT, (3, 5)), (3.0, 5.0))
    order = protocol.order(torch.Generator().manual_seed(0), 8)
    assert order is not None
    assert [sorted(row[:3].tolist()) for row in order] == [[0, 1, 2]] * 2
    assert [sorted(row[3:].tolist()) for row in order] == [[3, 4, 5, 6, 7]] * 2
    assert protocol.step_sizes == (2, 1, 2, 1, 2, 2, 1, 2, 2, 1)
    assert sum(protocol.shares) == pytest.approx(1.0)
    facts = protocol.facts()
    assert facts["samples_of_clients"] == [3, 5]
    assert "weighted by their numbers of samples" in protocol.assumption()


def test_what_readers_ask_of_a_sum_is_what_its_clients_say() -> None:
    local = FedAvg(4, learning_rate=0.1, local_epochs=2, local_batch_size=2)
    whole = Aggregated.of([local, local], (1, 1))
    assert whole.shuffled
    assert Aggregated.of([FedAvg(2, optimizer="adam"), FedAvg(2, optimizer="adam")], (1, 1)).bent_by == "Adam"
    before = {"w": torch.ones(3, 2)}
    update = {"w": torch.full((3, 2), 0.1)}
    one, two = local.rounding(update, before)["w"], whole.rounding(update, before)["w"]
    assert two == pytest.approx(one * 2**-0.5)


def test_of_clients_that_do_not_count_by_their_size_the_sum_is_no_gradient_of_a_mean() -> None:
    clients = [FedAvg(1), FedAvg(3)]
    assert Aggregated.of(clients, (1, 3)).one_gradient
    assert not Aggregated.of(clients, (1, 1)).one_gradient


def test_one_client_alone_can_have_fewer_samples_than_a_step() -> None:
    local = FedAvg(8, local_batch_size=4, drop_last=True)
    whole = Aggregated.of([local, local], (1, 1))
    assert whole.only(1).batch_size == 1
    assert whole.of_samples(1).batch_size == 1
