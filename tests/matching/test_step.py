"""Eager, traced and batched steps give the same numbers, and what cannot be recorded stays eager and says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import SilentMonitor, cpu_generator
from leakaudit.batch import Batch
from leakaudit.matching.engine import GradientMatching, MatchSettings, minimize
from leakaudit.matching.priors import KeepRate
from leakaudit.matching.step import Step, choose_mode
from leakaudit.observation import InputSpace
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from tests.conftest import make_target, small_cnn
from tests.matching.test_engine import observation_of


def problem_of(target: Target, samples: Batch, space: InputSpace, settings: MatchSettings) -> GradientMatching:
    observation = observation_of(target, samples.subset([1, 2]), space)
    assert observation.labels is not None
    return GradientMatching(target, observation, observation.labels, settings)


def assert_same(a: Step, b: Step, values: list[torch.Tensor]) -> None:
    first, second = a(values), b(values)
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(first[1], second[1], rtol=1e-5, atol=1e-7)
    for x, y in zip(first[2], second[2], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("distance", ["cosine", "layerwise", "euclidean"])
def test_traced_equals_eager(samples: Batch, space: InputSpace, restarts: int, distance: str) -> None:
    settings = MatchSettings(tv_weight=0.01, l2_weight=0.1, distance=distance)  # type: ignore[arg-type]
    problem = problem_of(make_target(small_cnn(), (3, 12, 12), 5), samples, space, settings)
    values = [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(0))]
    traced = Step(problem, ["inputs"], values, "traced")
    assert (traced.mode, traced.note) == ("traced", "")
    other = [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(1))]
    assert_same(Step(problem, ["inputs"], values), traced, other)


def test_labels_and_masks_are_traced_too(samples: Batch, space: InputSpace) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.GELU(), Dropout(0.5, label="drop"), nn.Linear(16, 5))
    problem = problem_of(make_target(net, (3, 12, 12), 5), samples, space, MatchSettings())
    problem.priors = (KeepRate({"drop": 0.5}, 0.1),)
    names = ["inputs", "labels", "mask:drop"]

    def values(seed: int) -> list[torch.Tensor]:
        generator = cpu_generator(seed)
        shapes = ((2, 2, 3, 12, 12), (2, 2, 5), (2, 2, 16))
        return [torch.rand(shape, generator=generator) for shape in shapes]

    traced = Step(problem, names, values(0), "traced")
    assert traced.mode == "traced"
    eager = Step(problem, names, values(0))
    assert_same(eager, traced, values(1))
    assert all(bool(gradient.any()) for gradient in eager(values(1))[2])


@pytest.mark.slow
def test_compiled_equals_eager(target: Target, samples: Batch, space: InputSpace) -> None:
    problem = problem_of(target, samples, space, MatchSettings())
    values = [torch.randn(2, 2, 3, 12, 12, generator=cpu_generator(0))]
    compiled = Step(problem, ["inputs"], values, "compiled")
    if compiled.mode != "compiled":
        pytest.skip(compiled.note)
    assert_same(Step(problem, ["inputs"], values), compiled, [values[0] + 0.1])


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(432, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.linear(x.flatten(1))
        return z if float(x.detach().sum()) > 1e9 else z.tanh()


def test_what_cannot_be_recorded_stays_eager(samples: Batch, space: InputSpace) -> None:
    problem = problem_of(make_target(_Branching(), (3, 12, 12), 5), samples, space, MatchSettings())
    values = [torch.randn(2, 2, 3, 12, 12, generator=cpu_generator(0))]
    step = Step(problem, ["inputs"], values, "traced")
    assert step.mode == "eager"
    assert step.note.startswith("step not traced: ")
    assert_same(Step(problem, ["inputs"], values), step, values)


def test_a_whole_run_is_the_same_in_both_modes(target: Target, samples: Batch, space: InputSpace) -> None:
    observation = observation_of(target, samples.subset([1]), space)
    results = [
        minimize(
            target,
            observation,
            MatchSettings(iterations=30, restarts=2, signed=False, execution=mode),  # type: ignore[arg-type]
            cpu_generator(0),
            SilentMonitor(),
        )
        for mode in ("eager", "traced")
    ]
    torch.testing.assert_close(results[0].inputs, results[1].inputs, rtol=1e-2, atol=1e-2)
    assert results[0].match == pytest.approx(results[1].match, rel=1e-2)
    assert results[0].iterations == results[1].iterations == 60


def test_recording_must_repay() -> None:
    assert [choose_mode(n) for n in (100, 5_000, 24_000)] == ["eager", "traced", "compiled"]
