"""A class per place: torch's loss, Dice's, the labels behind errors, areas, and what a file of masks may hold."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.client.readers.labels import class_per_place
from leakaudit.errors import BatchError, ModelError, UsageError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.tasks.class_loss import ClassLoss
from leakaudit.tasks.own_loss import OwnLoss
from leakaudit.tasks.segmentation import Segmentation
from tests.target.unets import SHAPES, UNet, masked

PLACES = (3, 4)
LOGITS = torch.randn((2, 5, *PLACES), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.randint(5, (2, *PLACES), generator=torch.Generator().manual_seed(1))
TASKS = (
    Segmentation(5, PLACES),
    Segmentation(5, PLACES, form=ClassLoss(weights=(1.0, 2.0, 3.0, 4.0, 5.0), gamma=1.0)),
    Segmentation(5, PLACES, of="dice"),
    Segmentation(5, PLACES, of="dice-ce"),
)


def flat(logits: torch.Tensor) -> torch.Tensor:
    return logits.flatten(1)


def test_cross_entropy_is_torchs_over_all_places() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    own = Segmentation(5, PLACES, form=ClassLoss(0.1, tuple(weights.tolist())))
    expected = F.cross_entropy(LOGITS, LABELS, weights, label_smoothing=0.1)
    torch.testing.assert_close(own.loss(flat(LOGITS), LABELS), expected)
    ignored = LABELS.clone()
    ignored[0, 0] = -100
    for form in (ClassLoss(), ClassLoss(0.1)):
        expected = F.cross_entropy(LOGITS, ignored, label_smoothing=form.smoothing)
        torch.testing.assert_close(Segmentation(5, PLACES, form=form).loss(flat(LOGITS), ignored), expected)
    last = Segmentation(5, PLACES, last=True).loss(flat(LOGITS.movedim(1, -1)), LABELS)
    torch.testing.assert_close(last, F.cross_entropy(LOGITS, LABELS))


def test_dice_is_its_definition() -> None:
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 5).movedim(-1, 1)
    cut = (2 * (p * y).sum((2, 3)) + 1e-5) / (p.sum((2, 3)) + y.sum((2, 3)) + 1e-5)
    torch.testing.assert_close(TASKS[2].loss(flat(LOGITS), LABELS), (1 - cut).mean())
    both = TASKS[0].loss(flat(LOGITS), LABELS) + (1 - cut).mean()
    torch.testing.assert_close(TASKS[3].loss(flat(LOGITS), LABELS), both)
    one = Segmentation(1, PLACES, of="dice")
    p, y = LOGITS[:, :1].sigmoid(), (LABELS % 2)[:, None]
    cut = (2 * (p * y).sum((2, 3)) + 1e-5) / (p.sum((2, 3)) + y.sum((2, 3)) + 1e-5)
    torch.testing.assert_close(one.loss(flat(LOGITS[:, :1]), LABELS % 2), (1 - cut).mean())
    expected = F.binary_cross_entropy_with_logits(LOGITS[:, 0], (LABELS % 2).double())
    torch.testing.assert_close(Segmentation(1, PLACES).loss(flat(LOGITS[:, :1]), LABELS % 2), expected)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_the_class_of_each_place_follows_from_outputs_and_errors(task: Segmentation) -> None:
    leaf = flat(LOGITS).requires_grad_()
    (errors,) = torch.autograd.grad(task.loss(leaf, LABELS), leaf)
    assert torch.equal(task.behind(flat(LOGITS), errors), LABELS)
    soft = F.one_hot(LABELS, 5).movedim(-1, 1).double()
    torch.testing.assert_close(task.loss(flat(LOGITS), soft), task.loss(flat(LOGITS), LABELS))
    assert {pickle.loads(pickle.dumps(task)), task} == {task}
    assert task.relaxed(task.free(LABELS)).shape == (2, 5, *PLACES)


def test_areas_are_right_up_to_two_points() -> None:
    task = Segmentation(3, (10, 10))
    labels = torch.arange(100).view(1, 10, 10) % 3
    moved = labels.flip(1).clone()
    assert task.match_labels(labels, moved) == (True,)
    assert task.tally(labels, moved).right == 100
    moved[moved == 2] = 0
    assert task.match_labels(labels, moved) == (False,)
    assert (task.tally(labels, moved).right, task.tally(labels, labels).chance) == (67, pytest.approx(0.99))
    assert task.classes_in(labels) == [0, 1, 2]
    scores = F.one_hot(labels, 3).movedim(-1, 1).flatten(1).float()
    half = labels.clone()
    half[:, 5:] = -100
    assert task.correct(scores, labels).tolist() == task.correct(scores, half).tolist() == [1.0]


def test_a_file_of_masks_is_checked() -> None:
    task = Segmentation(3, PLACES)
    masks = LABELS.numpy() % 3
    for stored in (masks, masks[:, None], masks.astype(np.float32), np.eye(3)[masks].transpose(0, 3, 1, 2)):
        assert torch.equal(class_per_place(task, stored, 2, "b"), torch.from_numpy(masks))
    wrong: list[tuple[Any, str]] = [
        (masks * 255, "expected classes 0 to 2"),
        (masks + 0.5, "at place"),
        (masks[:, :2], r"expected a class for each place, \(2, 3, 4\)"),
    ]
    for stored, words in wrong:
        with pytest.raises(BatchError, match=words) as caught:
            class_per_place(task, stored, 2, "b")
        assert caught.value.hint


def test_a_model_of_maps_says_its_task() -> None:
    net = UNet(2, 3)
    target = leakaudit.load(net, image_shape=SHAPES[2], loss="dice-ce:weights=[1,2,3]")
    assert target.task == Segmentation(3, (8, 8), of="dice-ce", form=ClassLoss(weights=(1.0, 2.0, 3.0)))
    assert leakaudit.load(net, image_shape=SHAPES[2]).task_evidence == "3 outputs at each of 8×8 places"
    assert leakaudit.load(UNet(2, 1), image_shape=SHAPES[2], loss="bce").task == Segmentation(1, (8, 8))
    for more, words in (
        ({"task": "multi-label"}, "of one output per sample; UNet returns scores at 8×8 places"),
        ({"loss": "mse", "task": "segmentation"}, "not of one class per place"),
    ):
        with pytest.raises(UsageError, match=words):
            leakaudit.load(net, image_shape=SHAPES[2], **more)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="probabilities at each of 64 places"):
        leakaudit.load(nn.Sequential(UNet(2, 3), nn.Softmax(1)), image_shape=SHAPES[2])
    with pytest.raises(ModelError, match="maps of another size than the sample"):
        leakaudit.load(nn.Conv2d(1, 3, 3), image_shape=SHAPES[2])


@pytest.mark.parametrize("steps", [0, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", ["cross-entropy", "dice", "dice-ce", "focal:gamma=2", "cross-entropy:weights=[1,3,5]"])
@pytest.mark.parametrize("axes", [2, 3])
def test_the_areas_of_the_classes_are_inferred(axes: int, loss: str, steps: int) -> None:
    torch.manual_seed(0)
    target = leakaudit.load(UNet(axes, 3), image_shape=SHAPES[axes], loss=loss)
    samples, masks = masked(40, axes)
    optimizer = torch.optim.SGD(target.module.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        chosen = torch.arange(8 * step, 8 * step + 8) % 32
        target.loss(samples[chosen], masks[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for first in (32, 33, 34):
        batch = Batch(samples, masks, tuple(range(40))).subset([first])
        seen = observe(target, batch, FedSGD(1), target.domain, 3)
        guess = target.task.infer(target, seen, cpu_generator(0))
        assert guess.open
        assert not guess.exact
        assert target.task.match_labels(batch.labels, guess.labels) == (True,), (
            target.task.rows(batch.labels), target.task.rows(guess.labels)
        )  # fmt: skip


def test_a_loss_of_ones_own_takes_maps() -> None:
    task = Segmentation(5, PLACES, own=OwnLoss("torch.nn.functional:cross_entropy"))
    torch.testing.assert_close(task.loss(flat(LOGITS), LABELS), F.cross_entropy(LOGITS, LABELS))
