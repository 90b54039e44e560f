"""GI-PIP helps where total variation is weak, and says what it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import NotApplicable, cpu_generator
from leakaudit.attacks.gi_pip import GIPIP, GIPIPSettings
from leakaudit.batch import Batch
from leakaudit.observation import InputSpace
from leakaudit.target.target import Target
from tests.conftest import make_target, smooth_images
from tests.matching.test_engine import _StopAfter, observation_of, psnr

AUXILIARY = torch.from_numpy(smooth_images(64, seed=7))
WEAK = GIPIPSettings(iterations=150, signed=False, tv_weight=1e-5, training_steps=250)


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def pooled() -> Target:
    """Too few gradient entries per pixel for the update alone."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def test_the_prior_brings_the_guess_nearer(samples: Batch, space: InputSpace) -> None:
    target, victim = pooled(), samples.subset([0, 3])
    observation = replace(observation_of(target, victim, space), auxiliary=AUXILIARY)
    quality = {
        weight: psnr(
            space,
            GIPIP(replace(WEAK, anomaly_weight=weight, one_sided=True))(target, observation, cpu_generator(0)).inputs,
            victim,
        )
        for weight in (0.0, 1.0)
    }
    assert quality[1.0] > quality[0.0] + 0.5


def test_an_interrupted_training_still_gives_a_reconstruction(samples: Batch, space: InputSpace) -> None:
    target = pooled()
    images = torch.from_numpy(smooth_images(16, seed=11))
    observation = replace(observation_of(target, samples.subset([0]), space), auxiliary=images)
    result = GIPIP(WEAK)(target, observation, cpu_generator(0), _StopAfter(5))
    assert result.stopped
    assert result.notes[0].startswith("autoencoder of 16 public images")


def test_says_what_it_needs(samples: Batch, space: InputSpace) -> None:
    target = pooled()
    observation = observation_of(target, samples.subset([0]), space)
    attack = GIPIP(GIPIP.presets["quick"])

    def reason(images: torch.Tensor | None) -> str:
        refusal = attack.applies(target, replace(observation, auxiliary=images))
        assert isinstance(refusal, NotApplicable)
        return refusal.reason

    assert "--auxiliary" in reason(None)
    assert "at least 8" in reason(AUXILIARY[:3])
    assert "(3, 12, 10)" in reason(AUXILIARY[..., :10])
    assert attack.applies(target, replace(observation, auxiliary=AUXILIARY)) is None
