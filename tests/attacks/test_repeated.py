"""Batches that hold a sample several times: closed forms find the distinct ones and how often each occurs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.certificate import certify
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.reading.repeated import one_repeated
from leakaudit.attacks.rgap import RGAP, RGAPSettings
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.reconstruction import NotApplicable, Reconstruction
from leakaudit.scoring.images import ImageMeasure
from leakaudit.target.target import Target
from tests.attacks.exact import relu_mlp, seen
from tests.conftest import make_target, small_cnn, small_mlp

LINEAR, SPEAR, BACK = LinearReader(LinearSettings()), Spear(SpearSettings(rounds=4)), RGAP(RGAPSettings())


def leaked(attack: Attack, target: Target, pool: Batch, places: list[int], space: Images) -> tuple[int, Reconstruction]:
    """How many places of a batch leak, and the reconstruction."""
    batch = pool.subset(places)
    observation = seen(target, batch, space)
    assert attack.applies(target, observation) is None
    result = attack(target, observation, cpu_generator(0))
    measure = ImageMeasure(pool)
    return sum(score.leaked for score in measure.score(batch, measure.recovered(space, result))), result


@pytest.mark.parametrize("attack", [LINEAR, SPEAR], ids=["linear", "spear"])
@pytest.mark.parametrize("places", [[3] * 8, [0, 0, 1, 2], [0, 1, 1, 7, 1, 0]], ids=["8 a", "a a b c", "mixed"])
def test_every_place_of_a_repeated_sample_leaks(
    attack: Attack, places: list[int], samples: Batch, space: Images
) -> None:
    count, result = leaked(attack, make_target(relu_mlp(512), (3, 12, 12), 5), samples, places, space)
    assert count == len(places)
    assert result.exact
    assert sorted(result.labels.tolist()) == sorted(place % 5 for place in places)


def test_smooth_activations_hide_no_repeated_sample(samples: Batch, space: Images) -> None:
    """All rows of eight copies agree, whatever follows them."""
    count, result = leaked(LINEAR, make_target(small_mlp(), (3, 12, 12), 5), samples, [4] * 8, space)
    assert (count, result.exact) == (8, True)


def test_one_sample_several_times_is_read_without_a_bias(samples: Batch, space: Images) -> None:
    target = make_target(nn.Sequential(nn.Flatten(), nn.Linear(432, 32, bias=False), nn.ReLU(), nn.Linear(32, 5)),
                         (3, 12, 12), 5)  # fmt: skip
    count, result = leaked(LINEAR, target, samples, [3] * 8, space)
    assert (count, result.exact) == (8, True)
    assert any("8 times" in note for note in result.notes)
    refused = LINEAR.applies(target, seen(target, samples.subset([3, 3, 4]), space))
    assert isinstance(refused, NotApplicable)


def test_recursion_takes_a_repeated_sample_for_one(samples: Batch, space: Images) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 12, 4, 2, 2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(588, 5))
    target = make_target(body, (3, 12, 12), 5)
    count, result = leaked(BACK, target, samples, [3] * 8, space)
    assert (count, result.exact) == (8, True)
    assert isinstance(BACK.applies(target, seen(target, samples.subset([3, 3, 4]), space)), NotApplicable)


def test_several_samples_are_not_taken_for_one(samples: Batch, space: Images) -> None:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    assert one_repeated(target, seen(target, samples.subset([3, 3]), space))
    for places in ([3], [3, 4], [3, 3, 3, 3, 3, 3, 3, 4]):
        assert not one_repeated(target, seen(target, samples.subset(places), space))


def test_a_repeated_sample_is_certified_as_one(samples: Batch, space: Images) -> None:
    target = make_target(relu_mlp(512), (3, 12, 12), 5)
    observation = seen(target, samples.subset([0, 0, 1, 2]), space)
    result = SPEAR(target, observation, cpu_generator(0))
    certificate = certify(target, observation, result.play)
    assert (certificate.exact, certificate.unique, certificate.unknowns) == (True, True, 3 * 432)
