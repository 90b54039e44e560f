"""The search decides by the objective, spends what it is given, and says what it chose."""

from __future__ import annotations

import torch

from leakaudit.attacks.base import SilentMonitor, cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.batch import Batch
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.search import CANDIDATES, Candidate, search
from leakaudit.observation import InputSpace
from tests.matching.test_descent import cnn
from tests.matching.test_engine import _StopAfter, observation_of, psnr

SETTINGS = IGSettings(iterations=500, tolerance=1e-9, search=True)


def test_recovers_and_reports_the_choice(samples: Batch, space: InputSpace) -> None:
    net, victim = cnn(), samples.subset([3])
    result = IG(SETTINGS)(net, observation_of(net, victim, space), cpu_generator(0))
    assert psnr(space, result.inputs, victim) > 45
    assert result.match < 1e-8
    labels = [candidate.label for candidate in CANDIDATES]
    assert any(note.startswith("chosen by its match") and note.split(": ", 1)[1] in labels for note in result.notes)
    assert result.iterations <= 500
    iterations = [point.iteration for point in result.history]
    assert iterations == sorted(set(iterations))


def test_the_better_candidate_wins_whatever_the_order(samples: Batch, space: InputSpace) -> None:
    net = cnn()
    observation = observation_of(net, samples.subset([3]), space)
    good = Candidate("good", {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0})
    bad = Candidate("bad", {"learning_rate": 1e-6})
    for order in ((good, bad), (bad, good)):
        problem = GradientMatching(net, observation, samples.subset([3]).labels, MatchSettings(iterations=100))
        start = {"inputs": torch.randn(1, 3, 12, 12, generator=cpu_generator(0))}
        _, _, facts = search(problem, start, cpu_generator(0), Progress(SilentMonitor()), order)
        assert facts[0].endswith(": good")


def test_stops_when_told_and_with_hardly_any_steps(samples: Batch, space: InputSpace) -> None:
    net = cnn()
    observation = observation_of(net, samples.subset([3]), space)
    told = IG(SETTINGS)(net, observation, cpu_generator(0), _StopAfter(5))
    assert told.iterations == 5
    assert told.stopped
    assert IG(IGSettings(iterations=1, search=True))(net, observation, cpu_generator(0)).match <= 1


def test_the_private_batch_cannot_change_the_choice(samples: Batch, space: InputSpace) -> None:
    net, victim = cnn(), samples.subset([1])
    observation = observation_of(net, victim, space)
    short = IGSettings(iterations=60, search=True)
    first = IG(short)(net, observation, cpu_generator(5))
    victim.images.fill_(0.123)
    second = IG(short)(net, observation, cpu_generator(5))
    assert torch.equal(first.inputs, second.inputs)
    assert first.notes == second.notes
