"""What labels say of a model's task, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.api import defend
from leakaudit.cli.inspect import as_lines, describe
from leakaudit.client.readers.base import reader_for
from leakaudit.client.readers.labels import numbers, several_classes
from leakaudit.client.readers.tasks import with_task
from leakaudit.errors import BatchError, UsageError
from leakaudit.report.formats.html import render_html
from leakaudit.risk.rank import rank_analysis
from leakaudit.target.load import load
from leakaudit.target.target import Target, taken_for
from leakaudit.tasks.base import Task
from leakaudit.tasks.choose import asked_for
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.single_label import OneLogit, SingleLabel, single_label

SHAPE = (1, 4, 4)
INPUTS = np.zeros((3, *SHAPE), np.float32)


def net(outputs: int, *ending: nn.Module) -> Target:
    torch.manual_seed(0)
    return load(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs), *ending), image_shape=SHAPE
    )


CASES: dict[str, tuple[int, Any, Task]] = {
    "classes": (3, np.array([0, 2, 1]), SingleLabel(3)),
    "one-hot": (3, np.eye(3), SingleLabel(3)),
    "shares": (3, np.full((3, 3), 1 / 3), SingleLabel(3)),
    "marks": (3, np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]]), MultiLabel(3)),
    "yes or no": (3, np.array([[True, True, False]] * 3), MultiLabel(3)),
    "rows of numbers": (3, np.array([[1.5, 2, 3]] * 3), Regression(3)),
    "0 and 1 for one output": (1, np.array([0, 1, 1]), OneLogit()),
    "numbers for one output": (1, np.array([50.5, 61, 42]), Regression(1)),
    "a column of numbers": (1, np.array([[3], [2], [9]]), Regression(1)),
    "shares of two classes": (1, np.array([[0.2, 0.8]] * 3), OneLogit()),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_say_the_task(name: str, tmp_path: Path) -> None:
    outputs, labels, task = CASES[name]
    np.savez(tmp_path / "batch.npz", x=INPUTS, y=labels)
    for source in ((INPUTS, labels), tmp_path / "batch.npz"):
        target = with_task(net(outputs), source)
        assert target.task == task
        assert target.task_evidence
    line = taken_for(target)
    assert task.name in line
    assert "else say --task or --input-shape" in line
    assert "\n" not in line


def test_a_number_with_the_values_0_and_1_is_not_silently_a_class() -> None:
    doubtful = with_task(net(1), (INPUTS, np.array([0, 1, 1])))
    assert "would fit a number as well" in taken_for(doubtful)
    assert "LA922" in {note.id for note in doubtful.fidelity}
    sure = with_task(net(1), (INPUTS, np.array([0.5, 1, 1])))
    assert "LA922" not in {note.id for note in sure.fidelity}


def test_who_names_the_task_is_not_contradicted_by_labels() -> None:
    target = load(net(3).module, image_shape=SHAPE, task="multi-label")
    assert with_task(target, (INPUTS, np.eye(3))) is target
    assert "--task multi-label" in taken_for(target)


def test_a_sigmoid_over_several_outputs_is_several_classes() -> None:
    target = net(3, nn.Sigmoid())
    assert target.task == MultiLabel(3)
    assert with_task(target, (INPUTS, np.eye(3))).task == MultiLabel(3)
    assert "LA910" in {note.id for note in target.fidelity}
    inputs = torch.rand((2, *SHAPE))
    torch.testing.assert_close(target.logits(inputs), net(3).logits(inputs))


def test_labels_of_several_classes_and_of_numbers_are_checked() -> None:
    task, number = MultiLabel(3), Regression(1)
    assert several_classes(task, np.eye(3, dtype=np.uint8), 3, "b").dtype == torch.float32
    assert numbers(number, np.array([1, 2, 3]), 3, "b").shape == (3, 1)
    wrong: list[tuple[Any, str]] = [
        (lambda: several_classes(task, np.array([[0, 1, 2.0]] * 3), 3, "b"), "run from 0 to 2, expected 0 and 1"),
        (lambda: several_classes(task, np.zeros((3, 4)), 3, "b"), r"shape \(3, 4\) .* expected \(3, 3\)"),
        (lambda: numbers(number, np.array([1, np.nan, 3]), 3, "b"), "sample 1 are NaN"),
        (lambda: numbers(number, np.array([1, 1e300, 3]), 3, "b"), "sample 1 are NaN, infinite or beyond"),
        (lambda: numbers(number, np.zeros((3, 2)), 3, "b"), r"expected \(3, 1\)"),
    ]
    for call, words in wrong:
        with pytest.raises(BatchError, match=words) as caught:
            call()
        assert caught.value.hint


@pytest.mark.parametrize(
    ("outputs", "task", "loss", "weights", "words"),
    [
        (3, "regression", "bce", (), "of classes, the task is regression"),
        (3, "multi-label", "cross-entropy", (), "one class per sample, the task is multi-label"),
        (3, "single-label", "mse", (), "of numbers, the task is single-label"),
        (3, "single-label", "bce", (), "several classes per sample"),
        (3, "multi-label", None, (1.0, 2.0), "--pos-weight has 2 values, net has 3"),
        (3, "regression", None, (2.0,), "for several classes per sample, not for regression"),
        (3, None, None, (-1.0,), "expected positive"),
        (1, None, "cross-entropy", (), "needs an output per class"),
    ],
)
def test_what_contradicts_itself_is_refused(outputs: int, task: Any, loss: Any, weights: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        asked_for(single_label(outputs), task, loss, weights, "net")


def test_a_loss_says_the_task() -> None:
    assert asked_for(single_label(3), None, "bce", (), "net") == (MultiLabel(3), "--loss bce")
    assert asked_for(single_label(3), None, None, (2.0,), "net") == (MultiLabel(3, (2.0,) * 3), "--pos-weight")
    assert asked_for(single_label(2), None, "huber", (), "net") == (Regression(2, "huber"), "--loss huber")
    assert asked_for(single_label(1), None, "bce", (), "net") == (OneLogit(), "--loss bce")
    assert asked_for(single_label(1), None, None, (), "net") is None


def rows(outputs: int) -> tuple[np.ndarray[Any, Any], Any]:
    generator = torch.Generator().manual_seed(2)
    inputs = net(3).domain.look_alikes(12, generator).numpy()
    drawn = torch.rand((12, outputs), generator=generator)
    return inputs, (drawn < 0.4).float().numpy() if outputs > 3 else (40 + 9 * drawn).numpy()


@pytest.mark.parametrize("outputs", [14, 1, 3])
def test_an_audit_shows_the_sample_and_its_labels(outputs: int) -> None:
    report = leakaudit.scan(
        net(outputs), rows(outputs), victims=2, attacks=["linear"], controls="none", distractors_needed=100
    )
    assert report.target.task == ("multi-label" if outputs == 14 else "regression")
    assert report.verdict.status == "LEAKS (certified)"
    read = next(a for a in report.attacks if a.name == "linear").results
    assert all(result.labels.correct == result.labels.count == (14 if outputs == 14 else 1) for result in read)
    assert all(sample.label_right for result in read for sample in result.samples)
    if outputs < 14:
        for result in read:
            assert result.labels.inferred_rows == pytest.approx(np.array(result.labels.rows), rel=1e-2)
    assert "LA301" in {finding.id for finding in report.findings}
    assert {a.status for a in report.attacks if a.name in ("rgap", "sme", "dlfa")} == {"not_run"}


@pytest.mark.parametrize("outputs", [14, 1])
def test_defend_trains_with_the_tasks_own_loss(outputs: int) -> None:
    report = defend(
        net(outputs), rows(outputs), goal="PSNR<15", victims=1, attacks=["linear"], grid=["prune=0.5"], steps=2
    )
    trial = report.trials[1]
    assert trial.loss is not None
    assert (trial.accuracy is None) is (outputs == 1)
    page = render_html(report)
    assert ("nothing is classified" in page) is (outputs == 1)


def test_inspect_says_what_the_model_was_taken_for() -> None:
    target = load(net(14).module, image_shape=SHAPE, loss="bce")
    summary = describe(target)
    assert (summary["task"], summary["task_evidence"], summary["outputs"]) == ("multi-label", "--loss bce", 14)
    (line,) = [line for line in as_lines(summary) if line.startswith("  task")]
    assert line == "  task       multi-label by binary cross-entropy (--loss bce); --task says otherwise"
    assert {a["name"]: a["applies"] for a in summary["attacks"]}["linear"]
    assert "is for single-label models" in {a["name"]: a["reason"] for a in summary["attacks"]}["rgap"]


def test_an_architecture_with_numbers_is_ranked() -> None:
    ranked = rank_analysis(load(net(2).module, image_shape=SHAPE, task="regression"))
    assert ranked.to_document().risk == "high"


def test_numbers_of_a_batch_follow_from_samples_that_were_read() -> None:
    """Each has units of its own in the first layer; the update alone tells the mean error only."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 400), nn.ReLU(), nn.Linear(400, 2))
    target = load(module, image_shape=SHAPE)
    inputs, labels = rows(2)
    report = leakaudit.scan(
        target, (inputs, labels), batch_size=2, victims=2, attacks=["linear", "spear"], controls="none", preset="quick"
    )
    for attack in (a for a in report.attacks if a.results):
        for result in attack.results:
            if result.residual is not None and result.residual < 1e-4:
                assert result.labels.correct == result.labels.count == 2
    read = [r for a in report.attacks for r in a.results if r.residual is not None and r.residual < 1e-4]
    assert read, "one of the two reads the batch"
    assert all("unknown too" in r.certified_reason for r in read), "what numbers are is open as well"


def test_rows_of_a_table_may_be_labelled_with_numbers() -> None:
    torch.manual_seed(0)
    target = load(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)))
    assert target.domain.kind == "table"
    inputs, labels = np.random.default_rng(0).normal(size=(30, 5)), np.linspace(20.5, 90.25, 30)
    told = with_task(target, (inputs, labels))
    batch = reader_for(told).fitted((inputs, labels))[1]
    torch.testing.assert_close(batch.labels, torch.from_numpy(labels.astype(np.float32))[:, None])


def test_labels_of_a_csv_say_the_task(tmp_path: Path) -> None:
    """As those of an array do: prices are numbers, not one of two classes."""
    place = tmp_path / "houses.csv"
    place.write_text("".join(["rooms,area,price\n", *(f"{i},{10.5 * i},{1.5 * i + 3}\n" for i in range(6))]))
    target = load(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), image_shape=(1, 1, 2))
    assert isinstance(with_task(target, place).task, Regression)
    place.write_text("".join(["rooms,area,sold\n", *(f"{i},{10.5 * i},{i % 2}\n" for i in range(6))]))
    assert isinstance(with_task(target, place).task, OneLogit)
