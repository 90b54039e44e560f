"""Labels are inferred under every loss, or the guess says that it is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess, Task
from leakaudit.tasks.choose import asked_for
from leakaudit.tasks.single_label import SingleLabel, single_label

HERE = "tests.tasks.losses"
SHAPE = (1, 6, 6)
ONE_CLASS = (
    "cross-entropy:smoothing=0.1",
    "cross-entropy:weights=[1,4,0.5,2,1]",
    "cross-entropy:smoothing=0.2,weights=[1,4,0.5,2,1]",
    "focal:gamma=2",
    "focal:gamma=2,weights=[1,4,0.5,2,1]",
    f"{HERE}:smoothed",
)


def task_of(text: str, outputs: int, kind: Any) -> Task:
    asked = asked_for(single_label(outputs), kind, text, (), "net")
    assert asked is not None
    return asked[0]


def net(task: Task, steps: int = 0, *, bias: bool = True, seed: int = 0) -> Target:
    """A small network for a task, trained for some steps on random labels."""
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, task.outputs, bias=bias)]
    target = Target(nn.Sequential(*layers), "net", "module", SHAPE, "NCHW", Images.plain(SHAPE), task)
    generator = cpu_generator(9)
    inputs = target.domain.look_alikes(64, generator)
    labels = task.draw(64, generator)
    optimizer = torch.optim.SGD(target.module.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        target.loss(inputs, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return target


def guessed(target: Target, labels: torch.Tensor, seed: int) -> LabelGuess:
    inputs = target.domain.look_alikes(len(labels), cpu_generator(100 + seed))
    batch = Batch(inputs, labels, tuple(range(len(labels))))
    seen = observe(target, batch, FedSGD(len(labels)), target.domain, 3)
    return target.task.infer(target, seen, cpu_generator(seed))


@pytest.mark.parametrize("steps", [0, 100])
@pytest.mark.parametrize("text", ONE_CLASS)
def test_the_class_of_one_sample_is_read_exactly(text: str, steps: int) -> None:
    target = net(task_of(text, 5, "single-label"), steps)
    for label in range(5):
        guess = guessed(target, torch.tensor([label]), label)
        assert (guess.labels.tolist(), guess.exact, guess.soft) == ([label], True, None)


@pytest.mark.parametrize("text", ["focal:gamma=2", "focal:gamma=0,weights=[1,4]"])
def test_the_class_behind_one_logit_as_well(text: str) -> None:
    target = net(task_of(text, 1, "single-label"), 50)
    assert [int(guessed(target, torch.tensor([label]), label).labels) for label in (0, 1)] == [0, 1]


def test_without_a_bias_the_sign_tells_where_it_can() -> None:
    weighted = net(task_of(ONE_CLASS[1], 5, "single-label"), 20, bias=False)
    assert all(guessed(weighted, torch.tensor([k]), k).labels.tolist() == [k] for k in range(5))
    smoothed = guessed(net(task_of(ONE_CLASS[0], 5, "single-label"), 20, bias=False), torch.tensor([3]), 0)
    assert not smoothed.exact


@pytest.mark.parametrize(("steps", "least"), [(0, 0.9), (100, 0.75)])
@pytest.mark.parametrize("text", ONE_CLASS)
def test_the_counts_of_a_batch_are_estimated(text: str, steps: int, least: float) -> None:
    task = task_of(text, 5, "single-label")
    target, right, total = net(task, steps), 0, 0
    for seed in range(6):
        labels = task.draw(8, cpu_generator(50 + seed))
        tally = task.tally(labels, guessed(target, labels, seed).labels)
        right, total = right + tally.right, total + tally.total
    assert right >= least * total, f"{right} of {total}"


def test_a_loss_that_takes_indices_only_says_that_classes_of_a_batch_are_assumed() -> None:
    target = net(task_of(f"{HERE}:indices_only", 5, "single-label"))
    assert guessed(target, torch.tensor([2]), 0).labels.tolist() == [2]
    guess = guessed(target, torch.tensor([4, 4]), 0)
    assert guess.assumed
    assert "indices only" in guess.method


@pytest.mark.parametrize("steps", [0, 100])
@pytest.mark.parametrize("text", ["bce", "bce:pos_weight=[6]", "focal:gamma=2", f"{HERE}:asymmetric"])
def test_every_mark_of_one_sample_is_read(text: str, steps: int) -> None:
    task = task_of(text, 14, "multi-label")
    target = net(task, steps)
    for seed in range(3):
        marks = task.draw(1, cpu_generator(seed))
        assert torch.equal(guessed(target, marks, seed).labels, marks)


@pytest.mark.parametrize("text", ["bce:pos_weight=[6]", "focal:gamma=2,weights=[3]", f"{HERE}:asymmetric"])
def test_the_counts_of_marks_are_estimated(text: str) -> None:
    task = task_of(text, 14, "multi-label")
    target = net(task)
    tallies = [
        task.tally(marks, guessed(target, marks, seed).labels)
        for seed in range(4)
        for marks in [task.draw(8, cpu_generator(seed))]
    ]
    assert sum(t.right for t in tallies) >= 0.9 * sum(t.total for t in tallies)


def test_plain_cross_entropy_is_read_as_before() -> None:
    """By its own algebra, which also sees soft labels."""
    target = net(SingleLabel(5))
    assert guessed(target, torch.tensor([3]), 0).method == "prediction minus the last layer's gradient"
