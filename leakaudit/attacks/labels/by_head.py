r"""Labels under a loss over several heads: each head's own last layer is read as if it were the only one.

With :math:`\ell = \sum_h w_h \ell_h`, the last layer of head h has the gradient of :math:`w_h \ell_h` alone, as no
other head passes through it. So the main head's labels are read by the task's own reader through its window on the
outputs, exactly where that is exact. Numbers of one sample need the error at all outputs, which is read head by head.

A loss of the user's own that takes heads of different shapes has no term of one head: the label of one sample is the
class whose error at all heads is the observed one, from the outputs that the last layers give.

Fails where heads share their last layer, or have none that is linear; then labels are assumed, and it is said.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from leakaudit.attacks.labels.by_loss import FITS, class_errors, logits_of_one
from leakaudit.attacks.labels.head import find_head, last_layer_signal
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess
from leakaudit.tasks.heads import SeveralHeads


def infer_by_head(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """Infer the labels behind an update; never looks at the batch.

    Args:
        target: The model, in the mode of the protocol; its loss is over several heads.
        observation: The update and the batch size.
        generator: CPU generator of whatever the readers draw.
    """
    task = _task_of(target)
    if not task.alike:
        return _by_own_loss(target, observation, generator)
    guess = task.base.infer(seen(target, 0), observation, generator)
    if guess.errors is None or len(task.heads) == 1:
        return guess
    others = [_error(target, place, observation, generator) for place in range(1, len(task.heads))]
    known = [error for error in others if error is not None]
    if len(known) < len(others):
        return replace(guess, errors=None, exact=False, open=True)
    return replace(guess, errors=torch.cat([guess.errors, *(error.to(guess.errors) for error in known)], 1))


def seen(target: Target, place: int) -> Target:
    """One head of several as a target of its own: its outputs, and its term of the loss."""
    task = _task_of(target)
    first = sum(task.sizes[:place])
    return replace(target, task=task.alone(place), window=(first, first + task.sizes[place]))


def _task_of(target: Target) -> SeveralHeads:
    task = target.task
    if not isinstance(task, SeveralHeads):
        raise TypeError(f"{target.name} has the task {task.kind}, not one of several heads")
    return task


def _error(target: Target, place: int, observation: Observation, generator: Generator) -> Tensor | None:
    """The error (1, size) at a head's outputs; ``None`` where its last layer does not give it."""
    head = find_head(seen(target, place), observation, generator)
    signal, exact = last_layer_signal(observation, head, one_class=False)
    return signal.detach().reshape(1, -1) if signal is not None and exact else None


def _by_own_loss(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """The class of one sample under a loss over heads of different shapes."""
    task, size = _task_of(target), observation.batch_size
    guess = torch.arange(size) % target.classes
    why = "the loss of your own is over several heads at once: labels assumed 0, 1, 2, …"
    assumed = LabelGuess(guess, why, exact=False, assumed=True)
    if size > 1 or not observation.plain or observation.rescaled or not observation.protocol.one_gradient:
        return assumed
    logits, signals = list[Tensor](), list[Tensor]()
    for place in range(len(task.heads)):
        view = seen(target, place)
        head = find_head(view, observation, generator)
        found, signal = logits_of_one(view, observation, head), last_layer_signal(observation, head, one_class=False)[0]
        if found is None or signal is None:
            return assumed
        logits.append(found.double().cpu())
        signals.append(signal.detach().double().cpu())
    outputs, observed = torch.cat(logits, 1), torch.cat(signals)
    misfit = (class_errors(task, outputs) - observed).norm(dim=1) / observed.norm().clamp_min(1e-300)
    method = "class whose error under the loss is the last layers' gradient"
    return LabelGuess(misfit.argmin()[None], method, exact=int((misfit <= FITS).sum()) == 1)
