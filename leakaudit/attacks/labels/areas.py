r"""Labels of every place: how much of the batch each class covers, off the bias gradient of the last layer.

With cross-entropy over all places the gradient of the last layer's bias is the mean over samples and places of
:math:`p - y`, so the share of class k is :math:`\bar p_k - g_k`, with the mean prediction of look-alikes, moved until
the second moment of the layer's update comes out (`leakaudit.attacks.labels.counts.fit_prediction`). Under Dice's loss
and all others the shares are those whose error on look-alikes, with the same soft label at every place, is the observed
one (`leakaudit.attacks.labels.by_loss.shares_behind`).

Where the classes lie is not in it: the labels are unknowns beside the inputs, which begin at these shares everywhere.
Fails without a linear or convolutional last layer; then all classes begin alike, and nothing is claimed.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from leakaudit.attacks.labels.by_loss import shares_behind
from leakaudit.attacks.labels.counts import fit_prediction, round_counts
from leakaudit.attacks.labels.head import Head, find_head, last_layer_signal
from leakaudit.attacks.labels.steps import halfway
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess


def infer_areas(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """Where the labels of all places begin; never looks at the batch.

    Args:
        target: The model, whose task has a class per place.
        observation: The update and the batch size.
        generator: CPU generator of the look-alikes.
    """
    task, size = target.task, observation.batch_size
    head = find_head(halfway(target, observation), observation, generator)
    signal, _ = last_layer_signal(observation, head, one_class=False)
    if signal is None or not task.takes_shares:
        return LabelGuess(
            task.probes(size), "nothing tells the classes: all begin alike", False, assumed=True, open=True
        )
    places = size * math.prod(task.label_shape)
    if task.plain and head.logits.shape[1] > 1:
        shares = _shares(target, observation, head, signal.double().cpu())
    else:
        shares = shares_behind(task, head.outputs, signal)
    counts = round_counts(shares, places)
    flat = torch.repeat_interleave(torch.arange(len(counts)), counts)
    labels = flat.view(-1, size).T.reshape(size, *task.label_shape)  # each sample an equal part of each class
    return LabelGuess(labels, "areas of the classes from the last layer's gradient", exact=False, open=True)


def _shares(target: Target, observation: Observation, head: Head, signal: Tensor) -> Tensor:
    """Shares of the classes (K,) under cross-entropy."""
    logits = head.logits.double().cpu()
    if head.bias is None or head.weight not in observation.update:
        return logits.softmax(1).mean(0) - signal
    parameters = target.parameters
    bias = parameters[head.bias].detach().double().flatten().cpu()
    weight = head.rows(dict(parameters)).detach().double().cpu()
    gradient = head.rows(dict(observation.update)).double().cpu()
    return fit_prediction(logits - bias, bias, gradient @ weight.T, signal) - signal
