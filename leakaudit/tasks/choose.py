"""From what the user says, and a model's outputs, to its task.

What nobody said is told from the number of outputs here, and again from the labels where samples are read
(`leakaudit.client.readers.tasks`). Every choice comes with the evidence for it, which `leakaudit scan` prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from leakaudit.errors import UsageError
from leakaudit.tasks.base import Task
from leakaudit.tasks.class_loss import ClassLoss
from leakaudit.tasks.loss_text import LossText, parse_loss
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.names import NUMBERS, PLACES, NumberLoss, PlaceLoss, TaskName
from leakaudit.tasks.next_token import NextToken
from leakaudit.tasks.own_loss import OwnLoss
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.segmentation import Segmentation
from leakaudit.tasks.single_label import single_label

GAMMA = 2.0
"""γ of the focal loss where none is said: what its authors train with (Lin et al. 2017, arXiv 1708.02002)."""


@dataclass(frozen=True)
class Asked:
    """What the user says of task and loss.

    Args:
        told: The task that the model's outputs suggest.
        loss: Its loss.
        pos_weight: Of the marked classes, for several classes.
        name: The model's, for messages.
    """

    told: Task
    loss: LossText | None
    pos_weight: tuple[float, ...]
    name: str

    @property
    def outputs(self) -> int:
        """Numbers that the model returns per sample."""
        return self.told.outputs

    @property
    def said(self) -> str | None:
        """The name of the loss; ``None`` where none is said, or one of the user's own."""
        return None if self.loss is None else self.loss.name

    @property
    def own(self) -> OwnLoss | None:
        """The user's own loss, imported.

        Raises:
            UsageError: It cannot be.
        """
        return OwnLoss.of(self.loss.function) if self.loss is not None and self.loss.function else None

    def number(self, key: str, default: float) -> float:
        """A setting of the loss."""
        return default if self.loss is None else self.loss.numbers.get(key, default)

    def each(self, key: str, classes: int) -> tuple[float, ...]:
        """A setting of one number per class.

        Raises:
            UsageError: There are more or fewer.
        """
        found = () if self.loss is None else self.loss.lists.get(key, ())
        if len(found) not in (0, classes):
            raise UsageError(
                f"--loss has {len(found)} {key}, {self.name} has {classes} classes", f"{key}=[…] takes one for each"
            )
        return found


def asked_for(
    told: Task, task: TaskName | None, loss: str | None, pos_weight: Sequence[float], name: str
) -> tuple[Task, str] | None:
    """The task that the user asked for, and by what; ``None`` where nothing says one.

    Args:
        told: The task that the model's outputs suggest, see :func:`told_by`.
        task: The name of another.
        loss: Its loss, as `leakaudit.tasks.loss_text.parse_loss` reads it.
        pos_weight: Of the marked classes, for several classes.
        name: The model's, for messages.

    Raises:
        UsageError: They contradict each other, or the model.
    """
    asked = Asked(told, _parsed(loss), tuple(map(float, pos_weight)), name)
    kind = task or _kind_of(asked)
    if kind is None:
        return None
    if told.places and kind not in (told.kind, "regression"):
        places = _by(told.places)
        raise UsageError(
            f"{kind} is of one output per sample; {name} returns scores at {places} places",
            f"leave it out, or {told.kind}",
        )
    said = f"--task {task}" if task else f"--loss {loss}" if loss else "--pos-weight"
    if pos_weight and kind != "multi-label":
        raise UsageError(f"--pos-weight is for several classes per sample, not for {kind}", "leave it out")
    if pos_weight and asked.own is not None:
        raise UsageError("--pos-weight is given beside a loss of your own, which weighs classes itself", "leave it out")
    return MAKERS[kind](asked), said


def _parsed(loss: str | None) -> LossText | None:
    try:
        return None if loss is None else parse_loss(loss)
    except ValueError as error:
        raise UsageError(f"loss is {loss!r}, {error}") from error


def _kind_of(asked: Asked) -> TaskName | None:
    """The task that a loss, or a weight, is of.

    Raises:
        UsageError: A loss of the user's own does not say.
    """
    if asked.loss is None:
        return "multi-label" if asked.pos_weight else None
    if asked.said is None:
        raise UsageError(
            f"--loss {asked.loss.function} is a loss of your own, which does not say what labels are", "add --task NAME"
        )
    if asked.said in NUMBERS:
        return "regression"
    if asked.told.places and asked.said != "bce":
        return asked.told.kind  # type: ignore[return-value]
    if asked.said in PLACES:
        return "segmentation"
    if asked.told.places:
        return "segmentation" if asked.outputs == math.prod(asked.told.places) else "multi-label"
    return "multi-label" if asked.said == "bce" and asked.outputs > 1 else "single-label"


def _one_class(asked: Asked) -> Task:
    loss, outputs = asked.said, asked.outputs
    if loss in (*NUMBERS, *PLACES):
        what = "numbers" if loss in NUMBERS else "a class per place"
        raise UsageError(f"loss {loss!r} is of {what}, the task is single-label", "use cross-entropy or bce")
    if loss == "bce" and outputs > 1:
        raise UsageError(f"loss 'bce' over {outputs} outputs is several classes per sample", "--task multi-label")
    if loss == "cross-entropy" and outputs == 1:
        raise UsageError(
            f"loss 'cross-entropy' needs an output per class; {asked.name} has a single one", "use loss 'bce'"
        )
    if loss == "bce" and asked.loss is not None and asked.loss.lists:
        raise UsageError("pos_weight is for several classes per sample, not for single-label", "use focal:weights=[…]")
    weights = asked.each("weights", max(2, outputs))
    gamma = asked.number("gamma", GAMMA) if loss == "focal" else 0.0
    return single_label(outputs, ClassLoss(asked.number("smoothing", 0.0), weights, gamma), asked.own)


def _several(asked: Asked) -> Task:
    outputs, loss = asked.outputs, asked.said
    if loss == "cross-entropy":
        raise UsageError("loss 'cross-entropy' has one class per sample, the task is multi-label", "use loss 'bce'")
    if loss in (*NUMBERS, *PLACES):
        what = "numbers" if loss in NUMBERS else "a class per place"
        raise UsageError(f"loss {loss!r} is of {what}, the task is multi-label", "use bce or focal")
    lists = {} if asked.loss is None else asked.loss.lists
    stated = lists.get("pos_weight", lists.get("weights", ()))
    if stated and asked.pos_weight:
        raise UsageError("--pos-weight is given beside weights of --loss", "say them once")
    weights = stated or asked.pos_weight
    weights = weights * outputs if len(weights) == 1 else weights
    if len(weights) not in (0, outputs):
        raise UsageError(
            f"--pos-weight has {len(weights)} values, {asked.name} has {outputs} outputs", "one, or one each"
        )
    if any(weight <= 0 for weight in weights):
        raise UsageError(f"--pos-weight is {weights}, expected positive values")
    return MultiLabel(outputs, weights, asked.number("gamma", GAMMA) if loss == "focal" else 0.0, asked.own)


def _numbers(asked: Asked) -> Task:
    if asked.said not in (None, *NUMBERS):
        raise UsageError(f"loss {asked.said!r} is of classes, the task is regression", f"use {', '.join(NUMBERS)}")
    chosen: NumberLoss = next((known for known in NUMBERS if known == asked.said), "mse")
    return Regression(asked.outputs, chosen, asked.number("delta", 1.0), asked.own)


def _per_place(asked: Asked) -> Task:
    told, loss = asked.told, asked.said
    if not isinstance(told, Segmentation):
        raise UsageError(
            f"a class per place needs scores at each place; {asked.name} returns {asked.outputs} numbers per sample",
            "export a model that returns (B, K, H, W) of the sample's own size",
        )
    if loss in NUMBERS or (loss == "bce" and told.channels > 1) or (loss in PLACES and not told.labelled):
        raise UsageError(f"loss {loss!r} is not of one class per place", "use cross-entropy, focal, dice or dice-ce")
    if loss == "bce" and asked.loss is not None and asked.loss.lists:
        raise UsageError("pos_weight is for several classes per sample, not for a class per place", "leave it out")
    gamma = asked.number("gamma", GAMMA) if loss == "focal" else 0.0
    form = ClassLoss(asked.number("smoothing", 0.0), asked.each("weights", told.classes), gamma)
    of: PlaceLoss = "dice" if loss == "dice" else "dice-ce" if loss == "dice-ce" else "cross-entropy"
    return replace(told, of=of, form=form, own=asked.own)


MAKERS: Mapping[str, Callable[[Asked], Task]] = {
    "single-label": _one_class,
    "multi-label": _several,
    "regression": _numbers,
    "segmentation": _per_place,
    "next-token": _per_place,
}
"""What makes each task of what was asked for."""


def told_by(returned: Sequence[int], *, sigmoid: bool, places: tuple[int, ...] = (), ids: int = 0) -> tuple[Task, str]:
    """The task that a model's outputs alone suggest, and the evidence.

    Args:
        returned: Shape of the outputs of one sample.
        sigmoid: Whether the file ended in a sigmoid over several of them.
        places: Sizes of the sample's axes beside its channels, see `leakaudit.domains.base.Domain.sides`.
        ids: How many values an entry of a sample can have; 0 of real numbers.
    """
    outputs = math.prod(returned)
    if ids and tuple(returned) == (*places, ids):
        return NextToken(ids, places, True), f"an output for each of {ids} token ids at each of {_by(places)} places"
    if len(returned) == len(places) + 1 > 1 and tuple(returned[1:]) == places:
        return Segmentation(returned[0], places), f"{returned[0]} outputs at each of {_by(places)} places"
    if len(returned) == len(places) + 1 > 1 and tuple(returned[:-1]) == places:
        return Segmentation(returned[-1], places, True), f"{returned[-1]} outputs at each of {_by(places)} places"
    if sigmoid:
        return MultiLabel(outputs), f"the model ends in a sigmoid over {outputs} outputs"
    return single_label(outputs), "one output" if outputs == 1 else f"{outputs} outputs"


def _by(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
