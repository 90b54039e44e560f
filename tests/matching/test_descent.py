"""Both ways down: stopping rules, restarts in step, schedules, memory."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.matching import descent, engine, memory
from leakaudit.matching.engine import MatchSettings, minimize
from leakaudit.matching.schedule import LearningRate, cosine_decay
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target
from tests.matching.build import StopAfter, cnn, observation_of, psnr

LBFGS = MatchSettings(iterations=300, optimizer="lbfgs", distance="euclidean", tv_weight=0)


def test_lbfgs_goes_far_below_the_precision_of_plain_cosine(samples: Batch, space: Images) -> None:
    victim = samples.subset([3])
    net = cnn()
    result = minimize(net, observation_of(net, victim, space), LBFGS, cpu_generator(0), SilentMonitor())
    assert result.match < 1e-8
    assert psnr(space, result.inputs.clamp(*space.box(result.inputs)), victim) > 45
    assert result.iterations <= 300


def test_lbfgs_stops_at_its_tolerance_and_when_told(samples: Batch, space: Images) -> None:
    net = cnn()
    observation = observation_of(net, samples.subset([3]), space)
    loose = MatchSettings(iterations=300, optimizer="lbfgs", distance="euclidean", tv_weight=0, tolerance=1e-2)
    result = minimize(net, observation, loose, cpu_generator(0), SilentMonitor())
    assert result.match < 1e-2
    assert result.iterations < 100
    assert result.stopped == ""
    told = minimize(net, observation, LBFGS, cpu_generator(0), StopAfter(7))
    assert told.iterations == 7
    assert told.stopped == "stopped after 7 of 300 iterations"


def test_adamw_recovers(target: Target, samples: Batch, space: Images) -> None:
    victim = samples.subset([3])
    settings = MatchSettings(iterations=300, tv_weight=1e-5, optimizer="adamw")
    result = minimize(target, observation_of(target, victim, space), settings, cpu_generator(0), SilentMonitor())
    assert psnr(space, result.inputs, victim) > 35


def test_adamw_is_adam_after_a_shrinking_of_the_inputs(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([3]), space)
    decay = inspect.signature(torch.optim.AdamW).parameters["weight_decay"].default
    start = torch.full((1, *space.shape), 0.5)  # not near the edges of the range
    rate = 0.05

    def after_one_step(kind: str) -> torch.Tensor:
        settings = MatchSettings(iterations=2, learning_rate=rate, schedule="constant", optimizer=kind)  # type: ignore[arg-type]
        given = replace(observation, start=start)
        result = minimize(target, given, settings, cpu_generator(0), SilentMonitor())
        assert result.history[1].objective < result.history[0].objective  # so that it is the second iterate
        return result.inputs

    assert decay > 0
    difference = after_one_step("adam") - after_one_step("adamw")
    torch.testing.assert_close(difference, rate * decay * start, rtol=1e-3, atol=0)


def test_patience_ends_a_run_that_gains_nothing(target: Target, samples: Batch, space: Images) -> None:
    settings = MatchSettings(iterations=200, learning_rate=1e-30, patience=5, initialization="zeros")
    result = minimize(
        target, observation_of(target, samples.subset([1]), space), settings, cpu_generator(0), SilentMonitor()
    )
    assert result.iterations == 6


def test_group_consistency_pulls_restarts_together(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([1]), space)

    def spread(weight: float) -> float:
        settings = MatchSettings(iterations=40, restarts=2, signed=False, group_weight=weight, execution="eager")
        problem = engine.GradientMatching(target, observation, samples.subset([1]).labels, settings)
        guesses = [{"inputs": torch.randn(1, 3, 12, 12, generator=cpu_generator(s))} for s in (0, 1)]
        found, _ = engine.solve(problem, guesses, cpu_generator(0), engine.Progress(SilentMonitor()))
        return float((found[0].values["inputs"] - found[1].values["inputs"]).norm())

    assert spread(1e3) < 0.7 * spread(1e-9)


def test_out_of_memory_halves_the_group(
    target: Target, samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = engine._descend

    def limited(step, stacked, *rest):  # type: ignore[no-untyped-def]
        sizes.append(len(stacked[0]))
        if len(stacked[0]) > 2:
            raise torch.OutOfMemoryError("pretended")
        return original(step, stacked, *rest)

    monkeypatch.setattr(engine, "_descend", limited)
    settings = MatchSettings(iterations=5, restarts=4, execution="traced")
    result = minimize(
        target, observation_of(target, samples.subset([1]), space), settings, cpu_generator(0), SilentMonitor()
    )
    assert sizes == [4, 2, 2]
    assert result.iterations == 20
    assert "out of memory with 4 restarts at once: 2 at once from there on" in result.notes


def test_a_group_is_planned_for_the_free_memory(
    target: Target, samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MatchSettings(iterations=5, restarts=5, execution="traced")
    observation = observation_of(target, samples.subset([1]), space)
    problem = engine.GradientMatching(target, observation, samples.subset([1]).labels, settings)
    one = memory.OVER_COUNT * memory.bytes_kept(problem, {"inputs": torch.randn(1, 3, 12, 12)}) / memory.SHARE
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(4.5 * one))
    sizes = []
    original = engine._descend

    def watched(step, stacked, *rest):  # type: ignore[no-untyped-def]
        sizes.append(len(stacked[0]))
        return original(step, stacked, *rest)

    monkeypatch.setattr(engine, "_descend", watched)
    result = minimize(target, observation, settings, cpu_generator(0), SilentMonitor())
    assert sizes == [3, 2]
    assert "memory for 4 of 5 restarts at once: 3 at once" in result.notes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    minimize(target, observation, settings, cpu_generator(0), SilentMonitor())
    assert sizes[2:] == [1] * 5


def test_kept_bytes_grow_with_the_batch_and_leave_the_weights_out(
    target: Target, samples: Batch, space: Images
) -> None:
    def kept(size: int) -> int:
        batch = samples.subset(range(size))
        problem = engine.GradientMatching(target, observation_of(target, batch, space), batch.labels, MatchSettings())
        return memory.bytes_kept(problem, {"inputs": torch.randn(size, 3, 12, 12)})

    assert kept(4) - kept(2) == kept(6) - kept(4) > 0
    assert kept(1) < 2 * kept(4) / 4 + sum(p.nbytes for p in target.parameters.values())


def test_free_memory_respects_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.free_bytes(torch.device("cpu"))
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CGROUP", limit)
    limit.write_text("max\n")
    assert memory.free_bytes(torch.device("cpu")) > 0.5 * whole
    limit.write_text("1000\n")
    assert memory.free_bytes(torch.device("cpu")) == 0


def test_an_earlier_reconstruction_is_the_first_start(target: Target, samples: Batch, space: Images) -> None:
    victim = samples.subset([4])
    observation = replace(observation_of(target, victim, space), start=space.encode(victim.images))
    result = minimize(target, observation, MatchSettings(iterations=1), cpu_generator(0), SilentMonitor())
    assert result.match < 1e-10


def test_schedules() -> None:
    assert cosine_decay(0, 10) == 1
    assert cosine_decay(5, 10) == pytest.approx(0.5)
    warm = LearningRate(MatchSettings(schedule="constant", warmup=4, learning_rate=1.0))
    assert [warm.at(i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    plateau = LearningRate(MatchSettings(schedule="plateau", plateau=3, learning_rate=1.0))
    for objective in (1.0, 0.5, 0.5, 0.5, 0.5, 0.5):
        plateau.report(objective)
    assert plateau.at(6) == pytest.approx(0.1)


def test_tiled_start_repeats_a_patch(space: Images) -> None:
    start = space.start("tiled", 2, cpu_generator(0))
    assert start.shape == (2, 3, 12, 12)
    assert torch.equal(start[..., :3], start[..., 3:6])
    assert torch.equal(start[:, :, :3], start[:, :, 9:])


class _Bowl:
    """J = ½ Σ a x² in the place of a step; its gradient with a penalty on the slope is known in closed form."""

    names = ("inputs",)
    curvature = torch.tensor([4.0, 0.25])

    def __call__(self, values: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        (x,) = values
        objective = 0.5 * (self.curvature * x.square()).sum(1)
        return objective, objective, (self.curvature * x,)


def test_gradient_regularisation_is_the_gradient_of_the_penalised_objective() -> None:
    bowl, x = _Bowl(), torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    gradients = bowl([x])[2]
    (got,) = descent._flattened(bowl, [x], gradients, 0.5)  # type: ignore[arg-type]
    radius = descent.UPHILL * 2**0.5
    leaf = x.clone().requires_grad_(True)
    slope = (bowl.curvature * leaf).norm(dim=1)  # ‖∇J‖ of each restart
    penalised = (0.5 * (bowl.curvature * leaf.square()).sum(1) + 0.5 * radius * slope).sum()
    (expected,) = torch.autograd.grad(penalised, [leaf])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_both_options_still_recover(samples: Batch, space: Images) -> None:
    net, victim = cnn(), samples.subset([3])
    for changes in ({"matched_share": 0.5}, {"flatness": 0.3}):
        settings = MatchSettings(iterations=150, tv_weight=1e-5, **changes)
        result = minimize(net, observation_of(net, victim, space), settings, cpu_generator(0), SilentMonitor())
        assert psnr(space, result.inputs, victim) > 20


def test_shares_are_checked() -> None:
    for bad in ({"matched_share": 0.0}, {"matched_share": 1.5}, {"flatness": -0.1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            MatchSettings(**bad)
