"""The labels of a sample file, as the task of the model takes them.

=============================  ==================================================================
labels of one class            read as
=============================  ==================================================================
whole numbers (N,) or (N, 1)   class indices
one-hot rows (N, K)            class indices
rows (N, K) that sum to 1      soft labels, as of mixup, label smoothing or distillation: kept
rows of 0 and 1 otherwise      refused: several classes per sample are another task
all else                       refused
=============================  ==================================================================

Several classes per sample are rows (N, K) of 0 and 1, or of numbers between; numbers are rows (N, D), or (N,) for one.
"""

from __future__ import annotations

import math
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakaudit.errors import BatchError
from leakaudit.tasks.base import Task
from leakaudit.tasks.class_loss import IGNORED

UNIT = 1e-3
"""How far a row of probabilities may be from a sum of 1 by rounding, as of float16; chosen."""


def read_labels(task: Task | int, labels: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    """The labels of `count` samples, as their task checks them.

    Args:
        task: Of the model; a number of classes stands for one class of so many.
        labels: As stored.
        count: Number of samples.
        where: The file, for messages.

    Raises:
        BatchError: They are not of this task.
    """
    if isinstance(task, int):
        return check_labels(labels, count, task, where)
    checked: Tensor = resolve_name(task.label_reader)(task, labels, count, where)
    return checked


def one_class(task: Task, labels: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    """Labels of a task of one class, see :func:`check_labels`."""
    return check_labels(labels, count, task.classes, where)


def several_classes(task: Task, labels: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    """Labels of several classes per sample: float32 (count, K) in 0..1.

    Raises:
        BatchError: They are not of this shape or range.
    """
    rows = _rows(labels, count, task.outputs, where, "a row of 0 and 1 per sample")
    outside = np.flatnonzero(((rows < 0) | (rows > 1)).any(1))
    if len(outside):
        first = int(outside[0])
        raise BatchError(
            f"{where}: labels of sample {first} run from {rows[first].min():g} to {rows[first].max():g}, expected "
            "0 and 1",
            "store 1 where a class is marked and 0 elsewhere, or say --task regression if they are numbers",
        )
    return torch.from_numpy(rows)


def numbers(task: Task, labels: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    """Labels that are numbers: float32 (count, D).

    Raises:
        BatchError: They are not of this shape.
    """
    labels = labels[:, None] if labels.ndim == 1 else labels
    return torch.from_numpy(_rows(labels, count, task.outputs, where, "a number per output and sample"))


def class_per_place(task: Task, labels: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    """A class for each place: int64 (count, *places), of whole numbers, or of one channel for each class.

    Raises:
        BatchError: They are of another shape, or are no classes of this model.
    """
    whole, places = (count, *task.places), math.prod(task.places)
    if labels.shape == (count, task.classes, *task.places) and np.isin(labels, (0, 1)).all():
        labels = labels.argmax(1)
    if labels.size != count * places or labels.dtype.kind not in "uifb":
        raise BatchError(
            f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}, expected a class for each place, "
            f"{whole}",
            "store whole numbers, as a mask has them; --task says what labels are",
        )
    found = labels.reshape(whole)
    wrong = (found != np.floor(found)) | (found >= task.classes) | ((found < 0) & (found != IGNORED))
    if wrong.any():
        first = np.argwhere(wrong)[0]
        raise BatchError(
            f"{where}: the label of sample {first[0]} at place {tuple(map(int, first[1:]))} is "
            f"{found[tuple(first)]:g}, expected classes 0 to {task.classes - 1}, or {IGNORED} for none",
            "number the classes from 0; masks of 0 and 255 are divided by 255",
        )
    return torch.from_numpy(found.astype(np.int64))


def next_tokens(task: Task, labels: np.ndarray[Any, Any], count: int, where: str) -> Tensor:
    """Labels of texts that nobody has at hand; those of texts come from the texts, see :func:`following`.

    Raises:
        BatchError: Always.
    """
    raise BatchError(f"{where}: the labels of next tokens are the texts themselves", "store token ids (N, L)")


def following(own: Tensor, ids: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], where: str) -> Tensor:
    """The next token at each place, int64 (N, L), and -100 where a client's loss leaves a place out.

    A file may leave labels out. Those that it holds are the texts, as language models of `transformers` take them, or
    the texts shifted by one; in the latter the last place may hold the token behind the text.

    Args:
        own: The texts shifted by one (N, L).
        ids: The texts (N, L).
        labels: As stored; empty where there are none, and then `own` counts.
        where: The file, for messages.

    Raises:
        BatchError: They are neither.
    """
    if labels.size == 0 or (labels.ndim == 1 and len(labels) == len(ids)):  # none, or of another task
        return own
    if labels.shape == ids.shape and labels.dtype.kind in "ui":
        kept = labels != IGNORED
        if (labels[kept] == ids[kept]).all():
            return torch.where(torch.from_numpy(np.roll(kept, -1, 1)), own, IGNORED)
        if (labels[:, :-1] == ids[:, 1:])[kept[:, :-1]].all():
            return torch.from_numpy(labels.astype(np.int64))
    raise BatchError(
        f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}, and are not the texts {ids.shape}",
        f"leave labels out, or store the token ids again, shifted by one or not, with {IGNORED} where there is no loss",
    )


def _rows(labels: np.ndarray[Any, Any], count: int, width: int, where: str, what: str) -> np.ndarray[Any, Any]:
    """Finite float32 (count, width).

    Raises:
        BatchError: They are not.
    """
    if labels.shape != (count, width) or labels.dtype.kind not in "uifb":
        raise BatchError(
            f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}, expected ({count}, {width}) numbers",
            f"store {what}; --task says what labels are",
        )
    with np.errstate(over="ignore"):
        rows = labels.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(broken):
        raise BatchError(
            f"{where}: labels of sample {int(broken[0])} are NaN, infinite or beyond float32",
            "remove or repair those samples",
        )
    return rows


def check_labels(labels: np.ndarray[Any, Any], count: int, classes: int, where: str) -> Tensor:
    """Class indices, int64 (count,), or class probabilities, float32 (count, classes).

    Args:
        labels: As stored.
        count: Number of samples.
        classes: Number of classes of the model.
        where: The file, for messages.

    Raises:
        BatchError: They are neither, or not of this model.
    """
    labels = labels.squeeze(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 2 and labels.shape == (count, classes) and labels.dtype.kind in "uifb":
        return _of_rows(labels.astype(np.float64), classes, where)
    if labels.ndim != 1 or len(labels) != count:
        raise BatchError(
            f"{where}: labels have shape {labels.shape}, expected ({count},), one per sample, or ({count}, {classes})",
            "store one class index per sample, or the probabilities of all classes",
        )
    if labels.dtype.kind not in "uif" or not np.all(np.isfinite(labels)) or np.any(labels != np.round(labels)):
        raise BatchError(
            f"{where}: labels have dtype {labels.dtype}, expected whole class indices",
            f"store int64 labels, or the probabilities of all classes as rows ({count}, {classes})",
        )
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        first = int(outside[0])
        raise BatchError(
            f"{where}: label {labels[first]:g} of sample {first} is out of range, the model has {classes} classes "
            f"(0 to {classes - 1})",
            "labels count from 0; check that the batch belongs to this model",
        )
    return torch.from_numpy(labels.astype(np.int64))


def _of_rows(rows: np.ndarray[Any, Any], classes: int, where: str) -> Tensor:
    """Classes of one-hot rows, or the rows where they are probabilities.

    Raises:
        BatchError: They are neither.
    """
    sums = rows.sum(1)
    valid = np.isfinite(rows).all(1) & (rows >= 0).all(1) & (np.abs(sums - 1) <= UNIT)
    if not valid.all():
        first = int(np.flatnonzero(~valid)[0])
        _refuse_several(rows, first, where)
        raise BatchError(
            f"{where}: labels of sample {first} sum to {sums[first]:g}, expected probabilities of {classes} classes, "
            "from 0 and with the sum 1",
            "store one class index per sample, or rows of probabilities",
        )
    if ((rows == 0) | (rows == 1)).all():
        return torch.from_numpy(rows.argmax(1))
    return torch.from_numpy((rows / sums[:, None]).astype(np.float32))


def _refuse_several(rows: np.ndarray[Any, Any], first: int, where: str) -> None:
    """Refuse rows that mark any number of classes, by the name of their task."""
    if not ((rows == 0) | (rows == 1)).all():
        return
    marked = int(rows[first].sum())
    what = f"{marked} classes" if marked else "no class"
    raise BatchError(
        f"{where}: labels mark {what} for sample {first} (multi-hot): that is several labels per sample, trained with "
        "binary cross-entropy",
        "say --task multi-label, or, if the loss is cross-entropy, store rows that sum to 1",
    )


def label_note(labels: Tensor, task: Task | int = 0) -> tuple[str, ...]:
    """A sentence where labels are soft, or no classes of one each."""
    if not isinstance(task, int) and task.label_shape:
        return (f"labels are read as {task.has} per sample",)
    if labels.dim() == 1:
        return ()
    return (
        f"labels are probabilities of {labels.shape[1]} classes; where one class is named, it has the largest share",
    )
