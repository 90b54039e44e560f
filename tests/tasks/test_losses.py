"""Losses with settings and losses of the user's own: their text, their value, their error, and whose mistake it is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from leakaudit.attacks.base import cpu_generator
from leakaudit.errors import UsageError
from leakaudit.target.load import load
from leakaudit.tasks.base import Task
from leakaudit.tasks.choose import asked_for
from leakaudit.tasks.class_loss import ClassLoss
from leakaudit.tasks.loss_text import loss_runs_code, parse_loss
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.own_loss import OwnLoss, lacks
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.single_label import OneLogit, SingleLabel, single_label

HERE = "tests.tasks.losses"
LOGITS = torch.randn((6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
WEIGHTS = (1.0, 3.0, 0.5, 2.0)
FORMS = (
    ClassLoss(),
    ClassLoss(smoothing=0.1),
    ClassLoss(weights=WEIGHTS),
    ClassLoss(smoothing=0.3, weights=WEIGHTS),
)


def made(outputs: int, text: str, task: Any = None) -> Task:
    asked = asked_for(single_label(outputs), task, text, (), "net")
    assert asked is not None
    return asked[0]


def test_a_text_says_the_loss_and_its_settings() -> None:
    assert made(4, "cross-entropy:smoothing=0.1,weights=[1,3,0.5,2]") == SingleLabel(4, ClassLoss(0.1, WEIGHTS))
    assert made(4, "focal") == SingleLabel(4, ClassLoss(gamma=2.0))
    assert made(1, "focal:gamma=1,weights=[1,4]") == OneLogit(form=ClassLoss(weights=(1.0, 4.0), gamma=1.0))
    assert made(4, "focal:gamma=3", "multi-label") == MultiLabel(4, (), 3.0)
    assert made(4, "bce:pos-weight=[5]") == MultiLabel(4, (5.0,) * 4)
    assert made(2, "huber:delta=0.25") == Regression(2, "huber", 0.25)
    own = made(2, f"{HERE}:log_cosh", "regression").own
    assert own is not None
    assert (own.path, len(own.sha256)) == (f"{HERE}:log_cosh", 64)
    assert len(OwnLoss.of(f"{HERE}:CALLED").sha256) == 64, "of what is called like a function, too"


def test_weights_beside_an_own_loss_are_refused() -> None:
    with pytest.raises(UsageError, match="--pos-weight is given beside a loss of your own"):
        asked_for(single_label(3), "multi-label", f"{HERE}:log_cosh", (2.0,), "net")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hinge", "expected cross-entropy, focal, bce"),
        ("focal:alpha=1", r"settings of focal \(gamma=…, weights=\[…\]\), not 'alpha=1'"),
        ("mse:delta=1", r"settings of mse \(none\)"),
        ("focal:gamma=x", "expected a number for gamma, not 'x'"),
        ("focal:gamma=nan", "expected a finite number"),
        ("focal:gamma=-1", "gamma from 0 to below inf, not -1"),
        ("cross-entropy:smoothing=1", "smoothing from 0 to below 1"),
        ("cross-entropy:smoothing=0.1,smoothing=0.2", "smoothing once"),
        ("cross-entropy:weights=[1,-2]", "positive weights"),
        ("huber:delta=0", "delta from 0"),
        (":f", "expected cross-entropy"),
        ("module:", "expected cross-entropy"),
    ],
)
def test_a_text_that_cannot_be_says_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        asked_for(single_label(4), None, text, (), "net")


@pytest.mark.parametrize(
    ("outputs", "text", "task", "words"),
    [
        (3, "cross-entropy:weights=[1,2]", None, "has 2 weights, net has 3 classes"),
        (1, "bce:pos_weight=[2]", None, "several classes per sample"),
        (3, "focal", "regression", "of classes, the task is regression"),
        (3, "mse", "multi-label", "of numbers, the task is multi-label"),
        (3, f"{HERE}:smoothed", None, "does not say what labels are"),
        (3, f"{HERE}:absent", "single-label", "AttributeError"),
        (3, "tests.tasks.no_such:f", "single-label", "ModuleNotFoundError"),
        (3, f"{HERE}:NO_FUNCTION", "single-label", "is int, expected a function"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(outputs: int, text: str, task: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        asked_for(single_label(outputs), task, text, (), "net")
    assert caught.value.hint or caught.value.__cause__


def test_only_functions_of_the_user_run_code() -> None:
    assert loss_runs_code("package.module:function")
    assert not any(map(loss_runs_code, ("focal:gamma=2", "bce", "")))
    assert parse_loss("a.b:c").function == "a.b:c"


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_cross_entropy_is_torchs(form: ClassLoss) -> None:
    weight = torch.tensor(form.weights, dtype=torch.float64) if form.weights else None
    expected = F.cross_entropy(LOGITS, LABELS, weight, label_smoothing=form.smoothing)
    torch.testing.assert_close(SingleLabel(4, form).loss(LOGITS, LABELS), expected)
    torch.testing.assert_close(SingleLabel(4, form).loss(LOGITS, F.one_hot(LABELS, 4).double()), expected)
    both = LOGITS[:, :2]
    one, two = OneLogit(form=ClassLoss(form.smoothing)), SingleLabel(2, ClassLoss(form.smoothing))
    torch.testing.assert_close(one.loss(both[:, 1:] - both[:, :1], LABELS % 2), two.loss(both, LABELS % 2))


def test_the_focal_loss_is_its_papers() -> None:
    right = LOGITS.softmax(1)[torch.arange(6), LABELS]
    expected = ((1 - right) ** 2 * -right.log()).mean()
    torch.testing.assert_close(SingleLabel(4, ClassLoss(gamma=2.0)).loss(LOGITS, LABELS), expected)
    marks = F.one_hot(LABELS, 4).double()
    right = torch.where(marks > 0, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    weight = torch.where(marks > 0, 3.0, 1.0)
    expected = (weight * (1 - right) ** 1.5 * -right.log()).mean()
    torch.testing.assert_close(MultiLabel(4, (3.0,) * 4, 1.5).loss(LOGITS, marks), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_of_certain_predictions_the_second_derivative_stays_finite(gamma: float) -> None:
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], requires_grad=True)
    for task, labels in ((SingleLabel(2, ClassLoss(gamma=gamma)), torch.tensor([0, 0])), (
        MultiLabel(2, (), gamma), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    )):  # fmt: skip
        (slope,) = torch.autograd.grad(task.loss(logits, labels), logits, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), logits)
        assert torch.isfinite(second).all()


@pytest.mark.parametrize("task", [SingleLabel(4, FORMS[2]), SingleLabel(4, ClassLoss(gamma=2.0)), OneLogit()], ids=repr)
def test_the_error_is_negative_at_the_label_alone(task: SingleLabel) -> None:
    assert task.sign_tells
    outputs = LOGITS[:, : task.outputs]
    errors = task.errors(outputs, LABELS % task.classes)
    signs = errors < 0
    if task.outputs > 1:
        assert torch.equal(signs, F.one_hot(LABELS, 4).bool())
    else:
        assert torch.equal(signs[:, 0], LABELS % 2 == 1)
    assert not SingleLabel(4, ClassLoss(smoothing=0.1)).sign_tells


@pytest.mark.parametrize("task", [MultiLabel(4, (3.0,) * 4, 2.0), MultiLabel(4, own=OwnLoss(f"{HERE}:asymmetric"))],
                         ids=repr)  # fmt: skip
def test_marks_follow_from_outputs_and_errors(task: MultiLabel) -> None:
    marks = task.draw(6, cpu_generator(0)).double()
    assert torch.equal(task.behind(LOGITS, task.errors(LOGITS, marks)), marks.float())


@pytest.mark.parametrize("task", [Regression(4, "huber", 0.2), Regression(4, own=OwnLoss(f"{HERE}:log_cosh"))],
                         ids=repr)  # fmt: skip
def test_numbers_follow_from_outputs_and_errors(task: Regression) -> None:
    near = LOGITS + 0.15 * task.draw(6, cpu_generator(0)).clamp(-1, 1)
    torch.testing.assert_close(task.behind(LOGITS, task.errors(LOGITS, near)), near, rtol=1e-3, atol=1e-3)


def test_a_loss_of_the_users_own_is_called_theirs_when_it_fails() -> None:
    outputs = torch.zeros((2, 3), requires_grad=True)
    for name, words in (
        ("broken", r"raised KeyError: 'gold' \(losses.py, line \d+\), called with outputs \(2, 3\)"),
        ("detached", "does not depend on the outputs"),
        ("per_sample", r"returned a tensor \(2,\) for outputs \(2, 3\)"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            OwnLoss.of(f"{HERE}:{name}")(outputs, torch.ones((2, 3)))
        assert caught.value.hint


def test_what_a_loss_of_the_users_own_can_do_is_tried() -> None:
    assert SingleLabel(3, own=OwnLoss(f"{HERE}:smoothed")).takes_shares
    assert not SingleLabel(3, own=OwnLoss(f"{HERE}:indices_only")).takes_shares
    outputs, labels = torch.rand((2, 3)), torch.rand((2, 3))
    assert lacks(OwnLoss(f"{HERE}:log_cosh"), outputs, labels) == ""
    assert lacks(OwnLoss("torch.nn.functional:l1_loss"), outputs, labels) == ""
    assert "has no derivative of its own" in lacks(OwnLoss(f"{HERE}:once"), outputs, labels)
    assert "ctc_loss_backward" in lacks(OwnLoss(f"{HERE}:ctc"), torch.rand((2, 18)), torch.tensor([1, 2]))
    task = SingleLabel(3, own=OwnLoss.of(f"{HERE}:smoothed"))
    assert {pickle.loads(pickle.dumps(task)), task} == {task}
    assert HERE in task.describe()


def test_a_loss_of_the_users_own_gets_outputs_by_place() -> None:
    """As training code gives them: (B, K, H, W), also where it is tried when a model is loaded."""
    net = torch.nn.Conv2d(1, 3, 3, padding=1)
    target = load(net, image_shape=(1, 4, 4), task="segmentation", loss="torch.nn.functional:cross_entropy")
    assert target.task.own is not None
    assert not any(note.id == "LA930" for note in target.fidelity)


def test_a_weight_of_positives_is_refused_for_masks() -> None:
    with pytest.raises(UsageError, match="pos_weight is for several classes per sample"):
        load(torch.nn.Conv2d(1, 1, 3, padding=1), image_shape=(1, 4, 4), loss="bce:pos_weight=[5]")
