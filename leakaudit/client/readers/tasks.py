"""What the labels of the samples say of the model's task, where the user says nothing.

=================  ===========================================  ============================
outputs            labels                                       taken for
=================  ===========================================  ============================
one                0 and 1 alone                                one of two classes
one                any other numbers                            a number (mean squared error)
several, K         rows (N, K) of 0 and 1, one 1 in each        one class of K
several, K         rows (N, K) of 0 and 1 otherwise             several classes of K
several, K         rows (N, K) that leave 0..1                  K numbers
a sigmoid over K   rows (N, K)                                  several classes of K
all else                                                        one class of K
=================  ===========================================  ============================

Only the model that says so by its own last layer, or a user, makes one of two classes out of a number with the values
0 and 1: such labels fit a regression too, and the line that names the task says how to ask for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Source
from leakaudit.client.readers.frame import SUFFIXES
from leakaudit.client.readers.npz import LABEL_KEYS, read_npz
from leakaudit.client.readers.table import stored_labels
from leakaudit.errors import AuditError
from leakaudit.target.target import Target
from leakaudit.tasks.base import Task
from leakaudit.tasks.class_loss import IGNORED
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.regression import Regression


def with_task(target: Target, source: Source) -> Target:
    """The model with the task that the labels of these samples are of; as it is where the user named one.

    Args:
        target: The model; its task was told from its outputs.
        source: Where the samples come from. A source that cannot be read says nothing, and is refused where it is read.
    """
    if target.task_asked:
        return target
    labels = _labels_of(source, target)
    if labels is None or not labels.size or labels.dtype.kind not in "uifb" or not np.isfinite(labels).all():
        return target
    task, evidence = _told_by(target, target.task.main, labels)
    if task is target.task.main:
        return replace(target, task_evidence=evidence)
    fidelity = tuple(note for note in target.fidelity if note.id != "LA922")  # the one output is no logit
    return replace(target, task=target.task.over(task), task_evidence=evidence, fidelity=fidelity)


def _labels_of(source: Source, target: Target) -> np.ndarray[Any, Any] | None:
    """The labels as they are stored; ``None`` where there are none to look at."""
    if isinstance(source, Batch):
        return source.labels.numpy() if source.known else None
    if isinstance(source, tuple):
        return np.asarray(source[1])
    path = Path(source)
    if not path.is_file():
        return None
    try:
        if path.suffix.lower() in SUFFIXES:
            return stored_labels(path, target.domain)
        return read_npz(path, keys=LABEL_KEYS, labelled=False).inputs
    except AuditError:  # the reader of the samples says what is wrong with the file
        return None


def _told_by(target: Target, task: Task, labels: np.ndarray[Any, Any]) -> tuple[Task, str]:
    """The task in place of what the outputs told, and the evidence."""
    outputs, known = task.outputs, f"{target.task_evidence}, labels"
    kind = f"{labels.dtype} labels {tuple(labels.shape)}"
    if task.places and np.isin(labels, (0, 1, IGNORED)).all():
        return task, f"{target.task_evidence}, {kind}"
    if outputs == 1:
        if np.isin(labels, (0, 1)).all():
            doubt = any(note.id == "LA922" for note in target.fidelity)
            return task, f"{known} of 0 and 1 alone" + ("; they would fit a number as well" if doubt else "")
        if labels.ndim == 2 and labels.shape[1] == target.classes:
            return task, f"{known} that are shares of two classes"
        return Regression(1), f"{target.task_evidence}, {kind} that are not 0 and 1 alone"
    if labels.ndim != 2 or labels.shape[1] != outputs or isinstance(task, MultiLabel):
        return task, f"{target.task_evidence}, {kind}"
    if np.isin(labels, (0, 1)).all():
        if (labels.sum(1) == 1).all():
            return task, f"{known} mark one class in each row"
        return MultiLabel(outputs), f"{known} of 0 and 1 that mark several classes or none in a row"
    if labels.min() < 0 or labels.max() > 1:
        return Regression(outputs), f"{target.task_evidence}, {kind} that are no shares of classes"
    return task, f"{target.task_evidence}, {kind} of shares"
