"""The exact readers on updates of several local steps: what stays exact, what is refused, what is claimed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.certificate import certify, tolerance_of
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.reading.agreement import CHANCE, by_chance
from leakaudit.attacks.reading.columns import entangled
from leakaudit.attacks.reading.noise import spread
from leakaudit.attacks.reading.records import distinct_records
from leakaudit.attacks.registry import create
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target
from tests.attacks.exact import dropout_mlp, errors, judge, noise_batch, relu_mlp, seen
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


@pytest.mark.parametrize("settings", SGD)
@pytest.mark.parametrize("attack", [SPEAR, LINEAR], ids=["spear", "linear"])
def test_one_step_over_all_records_is_a_gradient_to_every_reader(attack: Attack, settings: str, space: Images) -> None:
    """FedSGD in disguise: momentum's first step is the gradient, Nesterov's 1 + μ times it, and both are undone."""
    target, batch = mlp(), noise_batch(1 if attack is LINEAR else 4, seed=2)
    observation = client(target, batch, space, **SGD[settings])
    assert observation.protocol.one_gradient
    result = read(attack, target, observation)
    assert judge(result, batch, space) == (len(batch), 0)
    assert result.exact
    assert "is the gradient itself" in observation.protocol.assumption()


def test_no_reading_survives_an_optimizer_that_bends_the_steps(space: Images) -> None:
    """The rank is full then, and ratios would even agree in groups: both are refused with the rule."""
    target, batch = mlp(), noise_batch(4, seed=1)
    for optimizer, name in (("adam", "Adam"), ("adamw", "AdamW"), ("rmsprop", "RMSprop")):
        observation = client(target, batch, space, local_epochs=2, learning_rate=1e-3, optimizer=optimizer)
        assert distinct_records(target, observation) is None
        for attack in ("linear", "spear", "april", "dager", "rgap"):
            refusal = create(attack, "quick").refusal(target, observation)
            if "images" in create(attack, "quick").reads:
                assert refusal is not None
                assert refusal.reason == f"{name}: spans and ratios do not survive it; only SGD adds gradients up"


def test_the_recursion_says_why_it_does_not_go_over_steps(space: Images) -> None:
    observation = client(mlp(), noise_batch(1), space, local_epochs=3)
    refusal = create("rgap", "quick").refusal(mlp(), observation)
    assert refusal is not None
    assert refusal.reason.startswith("the update is of 3 local steps; between them the weights move")


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("rate", [0.1, 1e-3])
def test_the_rounding_of_an_exchange_is_of_the_size_that_the_protocol_says(
    epochs: int, rate: float, space: Images
) -> None:
    """Against the same steps in float64, which round a billion times less."""
    batch = noise_batch(4, seed=1)
    protocol = FedAvg(4, local_epochs=epochs, local_batch_size=2, learning_rate=rate)
    rounded = observe(mlp(), batch, protocol, space)
    double = mlp()
    double.module.double()
    exact = observe(double, replace(batch, images=batch.images.double()), protocol, space)
    for name in ("1.weight", "3.weight"):
        wrong = (rounded.update[name].double() - exact.update[name])[rounded.update[name] != 0]
        # the gradient is rounded too, and processors add up in orders of their own: 2.6 times as much on one of them
        assert 0.4 < float(wrong.square().mean().sqrt()) / rounded.exchange[name] < 4, name
        assert spread(rounded, name) == rounded.exchange[name]
    assert observe(mlp(), batch, FedSGD(4), space).exchange == {}


@pytest.mark.parametrize("settings", SGD)
def test_the_rank_is_the_number_of_distinct_records(settings: str, space: Images) -> None:
    target, batch = mlp(), noise_batch(5, seed=4).subset([0, 1, 2, 3, 4, 4, 0, 0])
    for size, epochs in ((1, 1), (3, 4), (8, 5)):
        observation = client(target, batch, space, local_batch_size=size, local_epochs=epochs, **SGD[settings])
        found = distinct_records(target, observation)
        assert found is not None
        assert (found.rank, found.layer) == (5, "1.weight")
    assert distinct_records(target, seen(target, batch, space)) == found


def test_a_certificate_is_only_given_where_the_order_does_not_matter(space: Images) -> None:
    """With steps of some of the records, nobody can replay the training; what the algebra reads is still exact."""
    target, batch = mlp(), noise_batch(4, seed=1)
    whole = client(target, batch, space, local_epochs=3)
    result = read(SPEAR, target, whole)
    assert result.exact
    assert certify(target, whole, result.play, uniqueness=False).exact
    moved = replace(
        result.play, inputs=result.inputs + 0.02 * torch.randn(result.inputs.shape, generator=cpu_generator(1))
    )
    assert not certify(target, whole, moved, uniqueness=False).exact
    assert result.residual < 1e-4
    parts = client(target, batch, space, local_epochs=3, local_batch_size=2)
    result = read(SPEAR, target, parts)
    assert result.exact
    assert result.residual != result.residual, "a residual under some order would be none"


def test_a_coarse_exchange_is_certified_up_to_its_own_rounding(space: Images) -> None:
    """At a learning rate of 1e-4 the weights round the update to a part in a thousand."""
    target, batch = mlp(), noise_batch(4, seed=1)
    observation = client(target, batch, space, local_epochs=2, learning_rate=1e-4)
    play = Play(space.encode(batch.images), batch.labels)
    assert 1e-4 < tolerance_of(observation) < 1e-2
    assert certify(target, observation, play, uniqueness=False).exact
    other = replace(play, inputs=space.encode((batch.images + 0.05).clamp(0, 1)))
    assert not certify(target, observation, other, uniqueness=False).exact


@pytest.mark.parametrize("attack", [SPEAR, LINEAR], ids=["spear", "linear"])
def test_nothing_false_is_claimed_where_the_weights_move_far(attack: Attack, space: Images) -> None:
    """Units that switch on and off between the steps leave columns without zeros of their own."""
    right = wrong = 0
    for seed in range(6):
        target, batch = mlp(96, seed=seed), noise_batch(3 + seed % 3, seed=seed)
        rate, epochs = (0.05, 0.2, 0.6)[seed % 3], 1 + seed % 4
        observation = client(target, batch, space, local_batch_size=1, local_epochs=epochs, learning_rate=rate)
        if attack.refusal(target, observation) is None:
            found = judge(attack(target, observation, cpu_generator(seed)), batch, space)
            right, wrong = right + found[0], wrong + found[1]
    assert wrong == 0


def test_a_choice_of_columns_that_holds_one_beside_another_is_seen() -> None:
    generator = cpu_generator(0)
    columns = torch.randn((5, 400), generator=generator, dtype=torch.float64)
    columns *= torch.rand((5, 400), generator=generator) < 0.5
    assert not entangled(columns, 1e-9)
    for weight in (1.0, -0.3, 1e-3):
        mixed = columns.clone()
        mixed[0] += weight * columns[3]
        assert entangled(mixed, 1e-9)
        mixed[3] += 0.5 * columns[2]
        assert entangled(mixed, 1e-9)


def test_masks_that_change_in_every_step_do_not_hinder(space: Images) -> None:
    target = make_target(dropout_mlp(0.5, 256), (3, 12, 12), 5)
    batch = noise_batch(4, seed=5)
    observation = client(target, batch, space, mode="train", local_epochs=2, local_batch_size=2)
    result = read(SPEAR, target, observation)
    assert judge(result, batch, space) == (4, 0)


def test_a_network_of_two_classes_is_not_read_falsely(space: Images) -> None:
    """Rows of mixtures agree there, in every step."""
    target, batch = make_target(relu_mlp(128, classes=2), (3, 12, 12), 2), noise_batch(4, classes=2)
    for attack in (LINEAR, SPEAR):
        observation = client(target, batch, space, local_epochs=2, local_batch_size=2)
        assert judge(read(attack, target, observation), batch, space)[1] == 0


def test_rows_of_one_record_alone_are_read_and_counted_against_chance(space: Images) -> None:
    target, batch = mlp(256), noise_batch(3, seed=6)
    observation = client(target, batch, space, local_epochs=2, local_batch_size=1)
    result = read(LINEAR, target, observation)
    right, wrong = judge(result, batch, space)
    assert (right, wrong) == (3, 0)
    assert by_chance(3, 500, 1e-8) < CHANCE < by_chance(3, 500, 1e-5) < by_chance(2, 500, 1e-5)


def test_a_client_of_one_record_counts_it_alone_under_drop_last(space: Images) -> None:
    """`drop_last` with one record and steps of four would leave no step."""
    protocol = FedAvg(4, local_batch_size=4, drop_last=True, learning_rate=0.02)
    target, batch = mlp(), noise_batch(4, seed=1)
    alone = protocol.alone(target, Play(space.encode(batch.images), batch.labels), 1)
    expected = FedSGD(1).update(target, Play(space.encode(batch.images[1:2]), batch.labels[1:2]))
    for name, tensor in expected.items():
        torch.testing.assert_close(alone[name], tensor.detach(), rtol=1e-3, atol=1e-5)
