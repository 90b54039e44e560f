r"""The labels of a task of several classes per sample: K questions of yes or no, each with its own logit.

With :math:`p = \sigma(z)`, and weight w of the marked, the last layer's bias gradient is

.. math:: g_k = \frac{1}{BK} \sum_i (1 - y_{ik})\,p_{ik} - w_k\, y_{ik} (1 - p_{ik})

One sample: every term with y is negative and every one without is positive, so the signs are the labels, all of them,
whatever the network. A batch: with the mean prediction p̄ of a class, :math:`n_k = B (\bar p_k - K g_k) / (\bar p_k +
w_k (1 - \bar p_k))` samples are marked, rounded. The mean prediction is that of look-alikes.

Without a bias the rows of the weight's gradient have the sign of the error times that of the mean feature. Fails
without a linear last layer; then nothing is known, and none is assumed.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from leakaudit.attacks.labels.infer import Head, find_head, last_layer_signal
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess
from leakaudit.tasks.multi_label import UNKNOWN, MultiLabel


def infer_several(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """The labels of one sample, or how many samples of a batch have each class; never looks at the batch.

    Args:
        target: The model, whose task is of several classes.
        observation: The update and the batch size.
        generator: CPU generator of the probe samples that estimate the mean prediction.
    """
    task = target.task
    assert isinstance(task, MultiLabel)
    head, size = find_head(target, observation, generator), observation.batch_size
    signal, exact = last_layer_signal(observation, head, one_class=False)
    if signal is None:
        none = torch.full((size, task.classes), UNKNOWN)
        return LabelGuess(none, "no linear last layer found: no class assumed", exact=False, assumed=True, open=True)
    if size == 1:
        marked = (signal < 0).float()[None].cpu()
        return LabelGuess(marked, "signs of the last layer's gradient, a class each", exact)
    counts = class_counts(task, observation, head, signal)
    shares = (counts / size).float().expand(size, -1).clone()
    how = "counts of each class from the last layer's gradient"
    return LabelGuess(shares, how, exact=False, open=True)


def class_counts(task: MultiLabel, observation: Observation, head: Head, signal: Tensor) -> Tensor:
    """How many samples of the batch have each class (K,), whole numbers.

    Args:
        task: Of several classes.
        observation: For the batch size.
        head: The last layer on probe samples.
        signal: Mean error of each logit, K times the bias gradient's entries being those of the sum over classes (K,).
    """
    size = observation.batch_size
    predicted = head.logits.double().sigmoid().mean(0).cpu()
    weight = task.weights(predicted)
    marked = (predicted - task.classes * signal.double().cpu()) / (predicted + weight * (1 - predicted))
    return (size * marked).round().clamp(0, size)
