"""The engine recovers what can be recovered, decides by the objective alone, and stops when told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dia import DIASettings
from leakaudit.attacks.gi_pip import GIPIPSettings
from leakaudit.attacks.gradinversion import GradInversionSettings
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.matching.engine import MatchSettings, minimize
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target
from tests.matching.build import StopAfter, observation_of, psnr

SETTINGS = MatchSettings(iterations=300, tv_weight=1e-5)


def test_recovers_a_sample_from_an_mlp(target: Target, samples: Batch, space: Images) -> None:
    victim = samples.subset([3])
    result = minimize(target, observation_of(target, victim, space), SETTINGS, cpu_generator(0), SilentMonitor())
    assert psnr(space, result.inputs, victim) > 40
    assert result.match < 1e-5
    assert result.history[0].objective > result.history[-1].objective
    assert [s.fraction for s in result.snapshots] == [0.0, 0.05, 0.1, 0.25, 0.5]


def test_a_descent_that_ends_early_has_a_timeline(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([3]), space)
    result = minimize(target, observation, SETTINGS, cpu_generator(0), StopAfter(40))
    fractions = [s.fraction for s in result.snapshots]
    assert len(fractions) == 5
    for found, wanted in zip(fractions, (0.0, 0.05, 0.1, 0.25, 0.5), strict=True):
        assert 2 * wanted / 3 <= found <= wanted


def test_the_update_of_another_sample_gives_that_sample(target: Target, samples: Batch, space: Images) -> None:
    result = minimize(
        target, observation_of(target, samples.subset([7]), space), SETTINGS, cpu_generator(0), SilentMonitor()
    )
    assert psnr(space, result.inputs, samples.subset([3])) < 15


def test_same_seed_same_numbers(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([1, 2]), space)
    runs = [IG(MatchSettings(iterations=20))(target, observation, cpu_generator(5)) for _ in range(2)]
    assert torch.equal(runs[0].inputs, runs[1].inputs)
    assert runs[0].residual == runs[1].residual
    other = IG(MatchSettings(iterations=20))(target, observation, cpu_generator(6))
    assert not torch.equal(runs[0].inputs, other.inputs)


def test_restarts_keep_the_smallest_match(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([1]), space)
    generator = cpu_generator(0)
    single = [minimize(target, observation, MatchSettings(iterations=30), generator, SilentMonitor()) for _ in range(3)]
    several = minimize(target, observation, MatchSettings(iterations=30, restarts=3), cpu_generator(0), SilentMonitor())
    assert several.match == min(r.match for r in single)
    assert several.iterations == 90


def test_the_private_batch_cannot_change_a_result(target: Target, samples: Batch, space: Images) -> None:
    victim = samples.subset([1])
    observation = observation_of(target, victim, space)
    first = IG(MatchSettings(iterations=20))(target, observation, cpu_generator(5))
    victim.images.fill_(0.123)
    second = IG(MatchSettings(iterations=20))(target, observation, cpu_generator(5))
    assert torch.equal(first.inputs, second.inputs)


def test_stops_when_told_with_the_best_so_far(target: Target, samples: Batch, space: Images) -> None:
    result = minimize(
        target, observation_of(target, samples.subset([1]), space), SETTINGS, cpu_generator(0), StopAfter(12)
    )
    assert result.iterations == 12
    assert result.stopped == "stopped after 12 of 300 iterations"
    assert result.match < 1


def test_stays_inside_the_valid_range(target: Target, samples: Batch, space: Images) -> None:
    result = minimize(
        target, observation_of(target, samples.subset([1]), space), SETTINGS, cpu_generator(0), SilentMonitor()
    )
    low, high = space.box(result.inputs)
    assert bool(((result.inputs >= low) & (result.inputs <= high)).all())


def test_starts_and_settings(space: Images) -> None:
    assert not space.start("zeros", 2, cpu_generator(0)).any()
    assert space.start("uniform", 2, cpu_generator(0)).abs().max() <= 1
    assert space.start("normal", 2, cpu_generator(0)).shape == (2, 3, 12, 12)
    nan, infinite = float("nan"), float("inf")
    for kind, bad in (
        (MatchSettings, {"iterations": 0}),
        (MatchSettings, {"tv_weight": -1.0}),
        (MatchSettings, {"initialization": "ones"}),
        (MatchSettings, {"tv_weight": nan}),
        (IGSettings, {"learning_rate": infinite}),
        (GIPIPSettings, {"training_steps": 0}),
        (GIPIPSettings, {"anomaly_weight": -1.0}),
        (DIASettings, {"mask_weight": -1.0}),
        (GradInversionSettings, {"statistics_weight": nan}),
        (GradInversionSettings, {"first_layer_factor": -1.0}),
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            kind(**bad)


def test_says_when_there_was_nothing_to_descend(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([1]), space)
    broken = replace(observation, update={n: g * float("nan") for n, g in observation.update.items()})
    result = minimize(target, broken, replace(SETTINGS, iterations=3), cpu_generator(0), SilentMonitor())
    assert "the objective was not a finite number anywhere: what is shown is the start" in result.notes
