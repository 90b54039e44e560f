"""The exact readers on updates of several local steps: what stays exact, what is refused, what is claimed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.reading.noise import spread
from leakaudit.attacks.reading.records import distinct_records
from leakaudit.attacks.registry import create
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target
from tests.attacks.exact import confirmed_count, dropout_mlp, errors, judge, noise_batch, relu_mlp, seen
from tests.conftest import make_target

SPEAR = Spear(SpearSettings(starts=128, rounds=6))
LINEAR = LinearReader(LinearSettings())
DECIBELS_90 = 10 ** (-90 / 20)
SGD: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"momentum": 0.9, "weight_decay": 5e-4},
}


def mlp(hidden: int = 192, **options: Any) -> Target:
    return make_target(relu_mlp(hidden, **options), (3, 12, 12), 5)


def client(target: Target, batch: Batch, space: Images, **local: Any) -> Observation:
    mode = local.pop("mode", "eval")
    return seen(target, batch, space, protocol=FedAvg(len(batch), mode, **{"learning_rate": 0.02, **local}))


def read(attack: Attack, target: Target, observation: Observation) -> Reconstruction:
    assert attack.refusal(target, observation) is None
    return attack(target, observation, cpu_generator(0))


@pytest.mark.parametrize("settings", SGD)
@pytest.mark.parametrize(("size", "epochs"), [(2, 1), (2, 3), (6, 3)])
def test_every_record_is_exact_after_local_steps(size: int, epochs: int, settings: str, space: Images) -> None:
    target, batch = mlp(), noise_batch(6, seed=1)
    observation = client(target, batch, space, local_batch_size=size, local_epochs=epochs, **SGD[settings])
    result = read(SPEAR, target, observation)
    assert judge(result, batch, space) == (6, 0)
    assert result.exact
    assert float(errors(result, batch, space).min(1).values.max()) < 10 * DECIBELS_90
    assert sorted(result.labels.tolist()) == sorted(batch.labels.tolist())


@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_single_record_is_exact_for_any_number_of_epochs(epochs: int, bias: bool, space: Images) -> None:
    target, batch = mlp(bias=bias), noise_batch(1, seed=3)
    observation = client(target, batch, space, local_epochs=epochs, momentum=0.9)
    result = read(LINEAR, target, observation)
    assert judge(result, batch, space) == (1, 0)
    assert result.exact
    assert float(errors(result, batch, space).min()) < 10 * DECIBELS_90
