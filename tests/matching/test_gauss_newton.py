"""Levenberg-Marquardt finds what the update hardly shows, where unknowns are few, and stands aside elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import BY_JACOBIAN, IG, IGSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.matching import gauss_newton
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import prepare
from leakaudit.matching.gauss_newton import MOST, SOLVED, _Space, levenberg_marquardt
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target
from leakaudit.tasks.base import Task
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.segmentation import Segmentation
from leakaudit.tasks.single_label import SingleLabel
from tests.audit.series import beats
from tests.matching.build import StopAfter
from tests.target.sequences import Recurrent
from tests.target.unets import SHAPES, UNet, masked

SETTINGS = IGSettings(iterations=6000, search=True, execution="eager")


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def recurrent(kind: type[nn.RNNBase] = nn.GRU, length: int = 6, size: int = 1) -> tuple[Target, Batch, Observation]:
    """A recurrent layer whose last state alone feeds the head, and the update of sequences of four features."""
    torch.manual_seed(0)
    target = leakaudit.load(Recurrent(kind, width=16), image_shape=(4, length))
    private = Batch(beats(8, 0, 4, length), torch.arange(8) % 3, tuple(range(8))).subset(range(size))
    seen = observe(target, private, FedSGD(size), target.domain, 3)
    return target, private, replace(seen, labels=private.labels, label_source="given")


def error(target: Target, inputs: torch.Tensor, private: Batch) -> float:
    """Largest difference of any value, in millivolts."""
    return float((target.domain.decode(inputs) - private.images).abs().max())


def run(target: Target, seen: Observation, monitor: Any = None, **changes: Any) -> Any:
    settings = replace(SETTINGS, **changes)
    problem, guesses, _ = prepare(target, seen, settings, cpu_generator(0), SilentMonitor())
    return levenberg_marquardt(problem, guesses[0], cpu_generator(1), Progress(monitor or SilentMonitor()))


@pytest.mark.parametrize("kind", [nn.GRU, pytest.param(nn.LSTM, marks=pytest.mark.slow)])
def test_the_early_steps_of_a_sequence_are_read_from_the_last_state(kind: type[nn.RNNBase]) -> None:
    target, private, seen = recurrent(kind)
    plain = {"iterations": 600, "optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0, "search": False}
    crawled = IG(replace(SETTINGS, **plain))(target, seen, cpu_generator(0))  # type: ignore[arg-type]
    found = IG(SETTINGS)(target, seen, cpu_generator(0))
    assert BY_JACOBIAN in found.notes
    assert error(target, found.inputs, private) < 0.01 < 0.1 < error(target, crawled.inputs, private)
    assert found.match < SOLVED
    assert found.residual < 1e-4
    assert 0 < found.iterations < 3000
    assert found.history[-1].match < found.history[0].match


def test_it_stands_aside_where_it_is_no_help() -> None:
    target, _, seen = recurrent()
    problem, guesses, _ = prepare(target, seen, SETTINGS, cpu_generator(0), SilentMonitor())
    progress = Progress(SilentMonitor())
    beside = {**guesses[0], "mask:0/dropout": torch.ones(1, 16)}
    assert levenberg_marquardt(problem, beside, cpu_generator(1), progress) is None
    assert run(target, replace(seen, noise=0.1)) is None
    assert run(target, seen, iterations=12) is None, "not one Jacobian"
    many_labels = {**guesses[0], "labels": torch.zeros(1, 300)}
    assert levenberg_marquardt(problem, many_labels, cpu_generator(1), progress) is None
    large, _, many = recurrent(length=6, size=3)
    assert MOST < 3 * 24
    assert run(large, many) is None


def test_columns_are_computed_one_by_one_where_an_operator_cannot_be_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _, seen = recurrent(length=16)
    problem, guesses, _ = prepare(target, seen, SETTINGS, cpu_generator(0), SilentMonitor())
    space = _Space(problem.in_float64(problem.settings), guesses[0])
    assert space.size == 64
    together = space.linearised(space.vector(guesses[0]["inputs"]))
    tries, grad = [], torch.autograd.grad

    def unbatched(*given: Any, is_grads_batched: bool = False, **more: Any) -> Any:
        if is_grads_batched:
            tries.append(1)
            raise RuntimeError("no batching rule")
        return grad(*given, **more)

    monkeypatch.setattr(torch.autograd, "grad", unbatched)
    monkeypatch.setattr(gauss_newton, "TOGETHER", 24)
    apart = space.linearised(space.vector(guesses[0]["inputs"]))
    torch.testing.assert_close(apart.jacobian, together.jacobian)
    assert len(tries) == 1, "it is not tried again"


def test_it_stops_when_told() -> None:
    target, _, seen = recurrent()
    found = run(target, seen, StopAfter(2))
    assert found is not None
    assert found.cut is not None
    assert found.spent < 200
    assert (found.cut.done, found.cut.planned) == (found.spent, 6000), "of the plan of the whole search"


@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (20, 1), (60, 1), (20, 2)])
def test_a_cut_is_of_the_whole_plan_wherever_it_comes(steps: int, restarts: int) -> None:
    """Before the search, in it, and in what follows it: all that was done, of all that was planned."""
    target, _, seen = recurrent()
    settings = replace(SETTINGS, iterations=100, restarts=restarts)
    found = IG(settings).run(target, seen, cpu_generator(0), StopAfter(steps))
    (cut,) = found.cuts
    assert (cut.done, cut.planned) == (found.iterations, 100 * restarts)


# Labels that the update does not give


@pytest.mark.parametrize("axes", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_the_class_of_each_place_is_found_with_the_sample(axes: int) -> None:
    """Through a softmax of unknowns neither is (7.9 dB): shares are unknowns that cross-entropy is linear in."""
    torch.manual_seed(0)
    target = leakaudit.load(UNet(axes, 3, 16).eval(), image_shape=SHAPES[axes])
    assert isinstance(target.task, Segmentation)
    samples, masks = masked(16, axes)
    private = Batch(samples, masks, tuple(range(16))).subset([3])
    seen = observe(target, private, FedSGD(1), target.domain, 0)
    guess = target.task.infer(target, seen, cpu_generator(0))
    found = IG(SETTINGS)(target, replace(seen, labels=guess.labels, open_labels=True), cpu_generator(0))
    assert BY_JACOBIAN in found.notes
    assert error(target, found.inputs, private) < 0.01
    assert torch.equal(found.labels, private.labels)


@pytest.mark.parametrize(
    "task",
    [SingleLabel(5), Segmentation(3, (2, 2)), Segmentation(1, (2, 2)), MultiLabel(4), Regression(2)],
    ids=lambda task: f"{task.kind}-{task.classes}",
)
def test_labels_without_their_limits_are_the_same_labels(task: Task) -> None:
    free = torch.randn(2, *task.free_shape, generator=cpu_generator(0))
    labels = task.relaxed(free)
    loose = task.loosened(labels)
    assert torch.allclose(task.tightened(loose), labels, atol=1e-6)
    assert torch.allclose(task.relaxed(task.unbounded(labels)), labels, atol=1e-5)
    beyond = loose + 2.0
    assert torch.allclose(task.loosened(task.tightened(beyond)), beyond)
