"""One class of K, by K logits or by one: loss, prediction, labels, and what is counted as right."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from leakaudit.tasks.base import Task
from leakaudit.tasks.single_label import OneLogit, SingleLabel, single_label

LOGITS = torch.randn((6, 4), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])


def test_the_number_of_outputs_decides() -> None:
    assert single_label(1) == OneLogit()
    assert single_label(4) == SingleLabel(4)
    assert (OneLogit().outputs, OneLogit().classes) == (1, 2)
    assert (SingleLabel(4).outputs, SingleLabel(4).classes) == (4, 4)


@pytest.mark.parametrize("task", [SingleLabel(4), OneLogit()], ids=lambda t: t.name)
def test_it_hashes_and_pickles(task: Task) -> None:
    again = pickle.loads(pickle.dumps(task))
    assert {again, task} == {task}
    assert task.label_shape == ()
    drawn = task.draw(500, cpu_generator(0))
    assert set(drawn.tolist()) == set(range(task.classes))


def test_cross_entropy_of_indices_and_of_probabilities() -> None:
    task = SingleLabel(4)
    hard = task.loss(LOGITS, LABELS)
    torch.testing.assert_close(hard, F.cross_entropy(LOGITS, LABELS))
    torch.testing.assert_close(task.loss(LOGITS, F.one_hot(LABELS, 4).float()), hard)
    assert task.predicted(LOGITS).tolist() == LOGITS.argmax(1).tolist()
    assert task.describe() == "cross-entropy"


def test_one_logit_is_the_softmax_of_zero_and_itself() -> None:
    one, labels = LOGITS[:, :1], LABELS % 2
    task = OneLogit()
    both = torch.cat([torch.zeros_like(one), one], 1)
    torch.testing.assert_close(task.loss(one, labels), F.cross_entropy(both, labels))
    torch.testing.assert_close(task.loss(one, F.one_hot(labels, 2).float()), task.loss(one, labels))
    assert task.predicted(one).tolist() == both.argmax(1).tolist()
    assert task.describe() == "logistic (one logit)"


def test_labels_are_counted_in_any_order() -> None:
    matched = SingleLabel(4).match_labels(torch.tensor([0, 1, 1, 3]), torch.tensor([3, 1, 2, 0]))
    assert matched == (True, True, False, True)
    assert SingleLabel(4).match_labels(torch.tensor([0]), torch.tensor([1])) == (False,)


def test_a_target_asks_its_task(target: Target, samples: Batch, space: Images) -> None:
    inputs = space.encode(samples.images[:3])
    torch.testing.assert_close(
        target.loss(inputs, samples.labels[:3]), F.cross_entropy(target.logits(inputs), samples.labels[:3])
    )
    assert (target.classes, target.binary) == (5, False)


def test_labels_are_inferred_through_the_task(target: Target, samples: Batch, space: Images) -> None:
    victim = samples.subset([3])
    observation: Any = observe(target, victim, FedSGD(1), space)
    guess = target.task.infer(target, observation, cpu_generator(0))
    assert guess.labels.tolist() == victim.labels.tolist()
    assert guess.method == infer_labels(target, observation, cpu_generator(0)).method
