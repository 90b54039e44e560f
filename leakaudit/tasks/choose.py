"""From what the user says, and a model's outputs, to its task.

What nobody said is told from the number of outputs here, and again from the labels where samples are read
(`leakaudit.client.readers.tasks`). Every choice comes with the evidence for it, which `leakaudit scan` prints.
"""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.errors import UsageError
from leakaudit.tasks.base import Task
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.names import NUMBERS, LossName, NumberLoss, TaskName
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.single_label import single_label


def asked_for(
    outputs: int, task: TaskName | None, loss: LossName | None, pos_weight: Sequence[float], name: str
) -> tuple[Task, str] | None:
    """The task that the user asked for, and by what; ``None`` where nothing says one.

    Args:
        outputs: Numbers that the model returns per sample.
        task: Its name.
        loss: Its loss.
        pos_weight: Of the marked classes, for several classes.
        name: The model's, for messages.

    Raises:
        UsageError: They contradict each other, or the model.
    """
    kind = task or _kind_of(loss, outputs, pos_weight)
    if kind is None:
        return None
    said = f"--task {task}" if task else f"--loss {loss}" if loss else "--pos-weight"
    if pos_weight and kind != "multi-label":
        raise UsageError(f"--pos-weight is for several classes per sample, not for {kind}", "leave it out")
    if kind == "regression":
        if loss not in (None, *NUMBERS):
            raise UsageError(f"loss {loss!r} is of classes, the task is regression", f"use {', '.join(NUMBERS)}")
        chosen: NumberLoss = next((known for known in NUMBERS if known == loss), "mse")
        return Regression(outputs, chosen), said
    if loss in NUMBERS:
        raise UsageError(f"loss {loss!r} is of numbers, the task is {kind}", "use cross-entropy or bce")
    if kind == "multi-label":
        return _several(outputs, loss, pos_weight, name), said
    if loss == "bce" and outputs > 1:
        raise UsageError(f"loss 'bce' over {outputs} outputs is several classes per sample", "--task multi-label")
    if loss == "cross-entropy" and outputs == 1:
        raise UsageError(f"loss 'cross-entropy' needs an output per class; {name} has a single one", "use loss 'bce'")
    return single_label(outputs), said


def _kind_of(loss: LossName | None, outputs: int, pos_weight: Sequence[float]) -> TaskName | None:
    """The task that a loss, or a weight, is of."""
    if loss is None:
        return "multi-label" if pos_weight else None
    if loss in NUMBERS:
        return "regression"
    return "multi-label" if loss == "bce" and outputs > 1 else "single-label"


def _several(outputs: int, loss: LossName | None, pos_weight: Sequence[float], name: str) -> MultiLabel:
    if loss == "cross-entropy":
        raise UsageError("loss 'cross-entropy' has one class per sample, the task is multi-label", "use loss 'bce'")
    weights = tuple(map(float, pos_weight))
    weights = weights * outputs if len(weights) == 1 else weights
    if len(weights) not in (0, outputs):
        raise UsageError(f"--pos-weight has {len(weights)} values, {name} has {outputs} outputs", "one, or one each")
    if any(weight <= 0 for weight in weights):
        raise UsageError(f"--pos-weight is {weights}, expected positive values")
    return MultiLabel(outputs, weights)


def told_by(outputs: int, *, sigmoid: bool) -> tuple[Task, str]:
    """The task that a model's outputs alone suggest, and the evidence.

    Args:
        outputs: Numbers per sample.
        sigmoid: Whether the file ended in a sigmoid over several of them.
    """
    if sigmoid:
        return MultiLabel(outputs), f"the model ends in a sigmoid over {outputs} outputs"
    return single_label(outputs), "one output" if outputs == 1 else f"{outputs} outputs"
