"""WIA replays the client's masks exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IGSettings
from leakaudit.attacks.wia import WIA
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.reconstruction import NotApplicable, SilentMonitor
from leakaudit.target.dropout import keyed
from tests.attacks.dropout import dropout_net, dropped, linear_net
from tests.matching.build import psnr


def test_the_objective_vanishes_at_the_true_input(samples: Batch, space: Images) -> None:
    target, victim = dropout_net(), samples.subset([0, 1])
    observation = dropped(target, victim, space)
    truth = space.encode(victim.images)
    settings = MatchSettings(tv_weight=0)
    informed = GradientMatching(target, observation, victim.labels, settings, masks=keyed(observation.masks or ()))
    assert float(informed.evaluate(truth)[1].detach()) < 1e-10
    ignorant = GradientMatching(target, observation, victim.labels, settings)
    assert float(ignorant.evaluate(truth)[1].detach()) > 0.01


def test_recovers_the_sample_of_the_update_and_nothing_of_another(samples: Batch, space: Images) -> None:
    torch.set_num_threads(1)
    target, victim = linear_net(), samples.subset([3])
    settings = IGSettings(iterations=1000, tolerance=1e-9, search=True)
    result = WIA(settings)(target, dropped(target, victim, space), cpu_generator(0))
    assert psnr(space, result.inputs, victim) > 30
    other = samples.subset([7])
    floor = psnr(space, space.encode(victim.images), other)
    assert abs(psnr(space, result.inputs, other) - floor) < 0.5


def test_needs_the_masks(samples: Batch, space: Images) -> None:
    target = dropout_net()
    observation = dropped(target, samples.subset([0]), space)
    attack = WIA(WIA.presets["quick"])
    assert attack.applies(target, observation) is None
    refusal = attack.applies(target, replace(observation, masks=None))
    assert refusal == NotApplicable("the client's dropout masks are not given: channels")


def test_victims_together_keep_their_own_masks(samples: Batch, space: Images) -> None:
    target = dropout_net()
    victims = [dropped(target, samples.subset([i, i + 1]), space, seed=i) for i in range(3)]
    settings = IGSettings(iterations=30, signed=False, tv_weight=0.01, execution="traced")
    found = WIA(settings).together(target, victims, [cpu_generator(i) for i in range(3)], SilentMonitor())
    assert found is not None
    in_turn = WIA(replace(settings, execution="eager"))
    for number, (result, victim) in enumerate(zip(found, victims, strict=True)):
        assert "3 victims attacked together" in result.notes
        assert not any("step not" in note for note in result.notes)
        alone = in_turn(target, victim, cpu_generator(number))
        assert (result.inputs - alone.inputs).abs().max() < 1e-2
        assert result.match == pytest.approx(alone.match, rel=1e-2)
        assert victim.masks is not None
        assert result.masks is not None
        assert all(torch.equal(result.masks[0][name], mask) for name, mask in victim.masks[0].items())
        swapped = replace(victim, masks=victims[number - 1].masks)
        assert abs(in_turn(target, swapped, cpu_generator(number)).match - alone.match) > 0.05
    assert WIA(WIA.presets["standard"]).together(target, victims, [cpu_generator(0)] * 3, SilentMonitor()) is None
