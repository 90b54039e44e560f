"""GradInversion uses the client's BatchNorm statistics, where there are any."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.attacks import gradinversion
from leakaudit.attacks.base import NotApplicable, cpu_generator
from leakaudit.attacks.gradinversion import BASE, GradInversion
from leakaudit.batch import Batch
from leakaudit.matching.priors import statistics_of
from leakaudit.observation import InputSpace
from leakaudit.target.target import Target
from tests.conftest import make_target
from tests.matching.test_engine import observation_of, psnr


def normalised() -> Target:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def test_statistics_bring_the_guess_nearer(samples: Batch, space: InputSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    target, victim = normalised(), samples.subset([0, 3])
    observation = observation_of(target, victim, space)
    first = target.module.get_submodule("0")
    statistics = {"1": statistics_of(first(space.normalize(victim.images)).detach())}
    monkeypatch.setattr(gradinversion, "given_statistics", lambda _: statistics)
    short = replace(BASE, iterations=150, restarts=2, tv_weight=1e-4)
    assert GradInversion(short).applies(target, observation) is None
    quality = {
        weight: psnr(
            space,
            GradInversion(replace(short, statistics_weight=weight))(target, observation, cpu_generator(0)).inputs,
            victim,
        )
        for weight in (0.0, 1e-2)
    }
    assert quality[1e-2] > quality[0.0]


def test_says_what_it_needs(samples: Batch, space: InputSpace, target: Target) -> None:
    attack = GradInversion(GradInversion.presets["quick"])
    observation = observation_of(target, samples.subset([0]), space)
    assert attack.applies(target, observation) == NotApplicable("the model has no BatchNorm layer")
    refusal = attack.applies(normalised(), observation)
    assert isinstance(refusal, NotApplicable)
    assert "threat model E" in refusal.reason
