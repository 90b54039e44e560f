"""What an update tells of several classes per sample, and of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels.behind import labels_behind
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.load import load
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess, Task
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.regression import Regression
from tests.conftest import make_target

SHAPE = (1, 12, 12)
DOMAIN = Images.plain(SHAPE)
CLASSES = 14


def cnn(outputs: int) -> nn.Module:
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * 9, outputs))


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.Sigmoid(), nn.Linear(64, outputs))


def without_bias(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, outputs, bias=False))


NETWORKS: tuple[Callable[[int], nn.Module], ...] = (cnn, mlp)


def target_of(build: Callable[[int], nn.Module], task: Task, steps: int = 0) -> Target:
    torch.manual_seed(3)
    target = replace(make_target(build(task.outputs), SHAPE, 5), task=task)
    optimizer = torch.optim.Adam(target.module.parameters(), 1e-3)
    for step in range(steps):
        batch = samples(task, 32, 100 + step)
        optimizer.zero_grad()
        target.loss(DOMAIN.encode(batch.images), batch.labels).backward()
        optimizer.step()
    return target


def samples(task: Task, count: int, seed: int) -> Batch:
    """Each label depends on the picture, so that there is something to learn."""
    images = DOMAIN.look_alikes(count, cpu_generator(seed))
    seen = images.flatten(1) @ torch.randn((144, task.outputs), generator=cpu_generator(9))
    labels = (seen > 2).float() if isinstance(task, MultiLabel) else seen
    return Batch(images, labels, tuple(range(count)))


def guessed(target: Target, batch: Batch) -> LabelGuess:
    observation = observe(target, batch, FedSGD(len(batch)), DOMAIN)
    return target.task.infer(target, observation, cpu_generator(0))


@pytest.mark.parametrize("steps", [0, 100])
@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("task", [MultiLabel(CLASSES), MultiLabel(CLASSES, (3.0,) * CLASSES)], ids=["even", "weighted"])
def test_every_label_of_one_sample_is_right(build: Callable[[int], nn.Module], task: MultiLabel, steps: int) -> None:
    target, batch = target_of(build, task, steps), samples(task, 20, 1)
    assert 0.1 < float(batch.labels.mean()) < 0.9
    for i in range(20):
        guess = guessed(target, batch.subset([i]))
        assert torch.equal(guess.labels, batch.labels[i : i + 1])
        assert guess.exact


@pytest.mark.parametrize("steps", [0, 100])
@pytest.mark.parametrize("build", NETWORKS)
def test_counts_of_each_class_in_a_batch(build: Callable[[int], nn.Module], steps: int) -> None:
    task = MultiLabel(CLASSES)
    target, batch = target_of(build, task, steps), samples(task, 80, 1)
    right = total = 0
    for i in range(10):
        victim = batch.subset(range(8 * i, 8 * i + 8))
        tally = task.tally(victim.labels, guessed(target, victim).labels)
        right, total = right + tally.right, total + tally.total
    assert right / total >= 0.9


def test_without_a_bias_the_mean_feature_tells_the_signs() -> None:
    task = MultiLabel(CLASSES)
    target, batch = target_of(without_bias, task), samples(task, 10, 1)
    guesses = [guessed(target, batch.subset([i])) for i in range(10)]
    assert torch.equal(torch.cat([guess.labels for guess in guesses]), batch.labels)
    assert not any(guess.exact for guess in guesses)


@pytest.mark.parametrize("task", [Regression(1), Regression(3), Regression(3, "huber")], ids=repr)
def test_the_error_of_one_sample_is_read_and_the_number_follows_from_its_output(task: Regression) -> None:
    target, batch = target_of(cnn, task), samples(task, 1, 1)
    batch = replace(batch, labels=batch.labels if task.of == "mse" else batch.labels.clamp(-0.3, 0.3))
    guess = guessed(target, batch)
    outputs = target.logits(DOMAIN.encode(batch.images))
    assert guess.errors is not None
    torch.testing.assert_close(task.behind(outputs, guess.errors), batch.labels, rtol=1e-3, atol=1e-3)
    assert guess.exact
    assert not guess.assumed
    many = guessed(target, samples(task, 4, 1))
    assert many.open
    assert many.assumed, "of several samples the mean error alone is known"


@pytest.mark.parametrize("task", [MultiLabel(CLASSES), Regression(1), Regression(3)], ids=repr)
@pytest.mark.parametrize("build", [*NETWORKS, without_bias])
def test_labels_follow_from_samples_that_were_read(build: Callable[[int], nn.Module], task: Task) -> None:
    """Also of batches, and by whatever loss: the gradient is linear in the errors."""
    target, batch = target_of(build, task), samples(task, 4, 1)
    observation = observe(target, batch, FedSGD(4), DOMAIN)
    found: Tensor = labels_behind(target, observation, DOMAIN.encode(batch.images))
    torch.testing.assert_close(found, batch.labels, rtol=1e-2, atol=1e-2)


def test_a_loaded_model_says_what_it_was_taken_for() -> None:
    target = load(cnn(CLASSES), image_shape=SHAPE, task="multi-label")
    assert (target.task, target.task_evidence, target.binary) == (MultiLabel(CLASSES), "--task multi-label", False)
    assert load(cnn(1), image_shape=SHAPE, loss="l1").task == Regression(1, "l1")
    assert not load(cnn(1), image_shape=SHAPE, task="regression").binary
