"""A loss over several heads has the labels of its task, whatever the contract says of them."""

from __future__ import annotations

import pickle

import pytest
import torch

from leakaudit.tasks.base import Task
from leakaudit.tasks.heads import SeveralHeads
from leakaudit.tasks.heads_text import HeadTerm
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.single_label import SingleLabel
from leakaudit.tasks.wrapped import WrappedTask

OF_THE_LOSS = {"plain", "errors", "infer"}
"""What follows from the loss of a sum of heads as for any other task."""


def heads_of(base: Task) -> SeveralHeads:
    terms = (HeadTerm("main", 1.0), HeadTerm("aux", 0.3))
    return SeveralHeads(base, terms, ((base.outputs,), (base.outputs,)))


def test_no_member_of_the_contract_is_forgotten() -> None:
    contract = {name for name in (*vars(Task), *Task.__annotations__) if not name.startswith("_")}
    answered = {name for kind in (WrappedTask, SeveralHeads) for name in vars(kind)}
    assert contract - answered == OF_THE_LOSS


@pytest.mark.parametrize("base", [SingleLabel(5), MultiLabel(4)], ids=lambda base: base.kind)
def test_labels_are_those_of_the_task(base: Task) -> None:
    task = heads_of(base)
    assert (task.kind, task.has, task.classes, task.label_shape) == (
        base.kind,
        base.has,
        base.classes,
        base.label_shape,
    )
    drawn = [each.draw(3, torch.Generator().manual_seed(0)) for each in (task, base)]
    assert torch.equal(*drawn)
    assert task.tally(drawn[0], drawn[0]) == base.tally(drawn[0], drawn[0])
    assert task.describe() != base.describe()


def test_methods_that_are_passed_on_keep_their_names_and_what_is_said_of_them() -> None:
    for name in ("hard", "draw", "match_labels"):
        own = vars(WrappedTask)[name]
        assert (own.__name__, own.__doc__) == (name, getattr(Task, name).__doc__)


def test_it_hashes_and_pickles_as_a_task_has_to() -> None:
    task = heads_of(SingleLabel(5))
    assert pickle.loads(pickle.dumps(task)) == task
    assert len({task, heads_of(SingleLabel(5)), heads_of(SingleLabel(6))}) == 2
