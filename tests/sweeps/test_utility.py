"""What a defence costs in training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.client.batch import Batch
from leakaudit.defences.spec import parse_defence
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.sweeps.request import TrainingPlan
from leakaudit.sweeps.utility import evaluate, split, train
from leakaudit.target.target import Target
from tests.conftest import make_target

PLAN = TrainingPlan(steps=40, learning_rate=0.1)


def test_training_lowers_the_loss_and_leaves_the_model_alone(target: Target, samples: Batch, space: Images) -> None:
    before = {name: value.detach().clone() for name, value in target.parameters.items()}
    _, held_out = split(samples, PLAN.held_out, 0)
    untrained = evaluate(replace(target, domain=space), held_out)
    kept, _ = split(samples, PLAN.held_out, 0)
    trained = train(replace(target, domain=space), samples, FedSGD(4), (), PLAN, 0)
    assert untrained.samples == trained.samples == 6
    assert len(kept) + len(held_out) == len(samples)
    assert all(torch.equal(value, before[name]) for name, value in target.parameters.items())
    assert train(replace(target, domain=space), samples, FedSGD(4), (), PLAN, 0) == trained


@pytest.mark.parametrize("text", ["clip=1,noise=0.001", "prune=0.9", "sign", "precode=8", "dropout=0.5", "clients=2"])
def test_every_kind_of_defence_can_be_trained_with(target: Target, samples: Batch, space: Images, text: str) -> None:
    found = train(replace(target, domain=space), samples, FedSGD(2), (parse_defence(text),), TrainingPlan(steps=3), 0)
    assert 0 < found.loss < 10


def test_what_is_not_shared_is_trained_by_the_client(target: Target, samples: Batch, space: Images) -> None:
    alone = train(replace(target, domain=space), samples, FedSGD(2), (parse_defence("share=1.weight"),), PLAN, 0)
    assert alone == train(replace(target, domain=space), samples, FedSGD(2), (), PLAN, 0)


def test_heavy_noise_costs_utility(target: Target, samples: Batch, space: Images) -> None:
    noisy = train(replace(target, domain=space), samples, FedSGD(2), (parse_defence("clip=1,noise=1"),), PLAN, 0)
    assert noisy.loss > train(replace(target, domain=space), samples, FedSGD(2), (), PLAN, 0).loss + 0.5


def test_a_batch_without_a_trace_changes_nothing(samples: Batch, space: Images) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 5))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([1e4, 0.0, 0.0, 0.0, 0.0]))  # class 0 for certain
    saturated = make_target(net, (3, 12, 12), 5)
    alone = Batch(samples.images[:4], torch.zeros(4, dtype=torch.long), tuple(range(4)))
    assert train(replace(saturated, domain=space), alone, FedSGD(1), (), PLAN, 0).loss == 0
