"""Several classes per sample, and numbers: the loss, its error at the outputs, and what is counted as right."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F

from leakaudit.attacks.base import cpu_generator
from leakaudit.tasks.base import Task
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.names import TASKS
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.single_label import SingleLabel

OUTPUTS = torch.randn((5, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MARKS = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.float64)
NUMBERS = 3 * torch.randn((5, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SEVERAL = (MultiLabel(3), MultiLabel(3, (1.0, 4.0, 0.5)))
OF_NUMBERS = (Regression(3), Regression(3, "l1"), Regression(3, "huber"))


def error_at(task: Task, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """∂ℓ/∂z of every sample's own loss, by autograd."""
    leaf = outputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(task.loss(leaf, labels), leaf)
    return len(outputs) * found


@pytest.mark.parametrize("task", [*SEVERAL, *OF_NUMBERS], ids=repr)
def test_it_hashes_pickles_and_draws(task: Task) -> None:
    assert {pickle.loads(pickle.dumps(task)), task} == {task}
    assert task.kind in TASKS
    assert (task.label_shape, task.outputs) == ((3,), 3)
    drawn = task.draw(200, cpu_generator(0))
    assert drawn.shape == task.probes(200).shape == (200, 3)
    assert torch.isfinite(task.loss(OUTPUTS.float(), task.probes(5)))
    assert task.tally(drawn, drawn).right == task.tally(drawn, drawn).total
    assert not task.softened(drawn, drawn)
    assert torch.equal(task.hard(drawn), drawn)


@pytest.mark.parametrize("task", SEVERAL, ids=repr)
def test_several_classes_are_torchs_binary_cross_entropy_and_errors_have_the_sign_of_the_label(
    task: MultiLabel,
) -> None:
    weight = torch.tensor(task.pos_weight, dtype=torch.float64) if task.pos_weight else None
    expected = F.binary_cross_entropy_with_logits(OUTPUTS, MARKS, pos_weight=weight)
    torch.testing.assert_close(task.loss(OUTPUTS, MARKS), expected)
    assert torch.equal(task.behind(OUTPUTS, error_at(task, OUTPUTS, MARKS)), MARKS.float())
    right = task.correct(torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1.0, 1.0, 1.0]]))
    assert right.tolist() == pytest.approx([2 / 3])
    assert task.relaxed(task.free(MARKS)).sub(MARKS).abs().max() < 0.03


def test_numbers_are_torchs_losses_and_follow_from_output_and_error() -> None:
    for task, expected in zip(OF_NUMBERS, (F.mse_loss, F.l1_loss, F.huber_loss), strict=True):
        torch.testing.assert_close(task.loss(OUTPUTS, NUMBERS), expected(OUTPUTS, NUMBERS))
    errors = error_at(OF_NUMBERS[0], OUTPUTS, NUMBERS)
    torch.testing.assert_close(OF_NUMBERS[0].behind(OUTPUTS, errors), NUMBERS)
    near = OUTPUTS + 0.3 * torch.sign(NUMBERS)
    torch.testing.assert_close(OF_NUMBERS[2].behind(OUTPUTS, error_at(OF_NUMBERS[2], OUTPUTS, near)), near)


@pytest.mark.parametrize("task", OF_NUMBERS[1:], ids=repr)
def test_of_a_limited_error_the_side_is_known(task: Regression) -> None:
    """Any number on the same side of the output has the same gradient."""
    far = OUTPUTS + torch.tensor([[-5.0, 5.0, 7.0]])
    found = task.behind(OUTPUTS, error_at(task, OUTPUTS, far))
    torch.testing.assert_close(error_at(task, OUTPUTS, found), error_at(task, OUTPUTS, far))


def test_cells_of_several_classes_are_counted_in_any_order_and_beside_chance() -> None:
    task = MultiLabel(3)
    assert task.tally(MARKS, MARKS[[4, 3, 2, 1, 0]]).right == 15
    counts = (MARKS.sum(0) / 5).expand(5, -1)
    assert task.tally(MARKS, counts).right == 15
    assert task.match_labels(MARKS, counts) == (None,) * 5
    assert task.match_labels(MARKS, torch.zeros((5, 3))) == (False, False, True, False, False)
    none = task.tally(MARKS, torch.zeros((5, 3)))
    assert (none.right, none.chance) == (8, pytest.approx(14 / 15))
    assert task.classes_in(MARKS) == [0, 0, 1, 1, 1, 2, 2]


def test_numbers_are_right_within_one_per_cent_in_any_order() -> None:
    task = Regression(3)
    assert task.match_labels(NUMBERS, 1.005 * NUMBERS[[1, 0, 2, 3, 4]]) == (True,) * 5
    assert task.match_labels(NUMBERS[:1], 1.02 * NUMBERS[:1]) == (False,)
    assert task.tally(NUMBERS, NUMBERS.flip(1)).right == 0
    assert task.classes_in(NUMBERS) == []
    assert task.rows(NUMBERS) == NUMBERS.tolist()


def test_an_optimisation_keeps_the_counts_that_the_update_told() -> None:
    free = torch.tensor([[2.0, -1.0], [1.0, -2.0], [0.5, -3.0]])
    told = torch.tensor([[1 / 3, 1 / 3]]).expand(3, -1)
    assert MultiLabel(2).decided(free, told).tolist() == [[1, 1], [0, 0], [0, 0]]
    assert MultiLabel(2).decided(free, torch.full((3, 2), 0.5)).tolist() == [[1, 0]] * 3
    assert SingleLabel(2).decided(free, told).tolist() == [0, 0, 0]
