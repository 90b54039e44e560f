r"""The labels of a task of several classes per sample: K questions of yes or no, each with its own logit.

With :math:`p = \sigma(z)`, and weight w of the marked, the last layer's bias gradient is

.. math:: g_k = \frac{1}{BK} \sum_i (1 - y_{ik})\,p_{ik} - w_k\, y_{ik} (1 - p_{ik})

One sample: every term with y is negative and every one without is positive, so the signs are the labels, all of them,
whatever the network. A batch: with the mean errors :math:`e^0_k` of a no and :math:`e^1_k` of a yes over look-alikes,
:math:`n_k = B (e^0_k - g_k) / (e^0_k - e^1_k)` samples are marked, rounded; here :math:`e^0_k = \bar p_k / K` and
:math:`e^1_k = -w_k (1 - \bar p_k) / K`. The focal loss has other errors of the same signs.

A loss of the user's own has errors of any sign: the outputs of one sample follow from the last layer, and each class is
marked where that is nearer to the error.

Without a bias the rows of the weight's gradient have the sign of the error times that of the mean feature. Fails
without a linear last layer; then nothing is known, and none is assumed.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from leakaudit.attacks.labels.by_loss import logits_of_one
from leakaudit.attacks.labels.head import Head, find_head, last_layer_signal
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess, Task
from leakaudit.tasks.multi_label import UNKNOWN


def infer_several(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """The labels of one sample, or how many samples of a batch have each class; never looks at the batch.

    Args:
        target: The model, whose task is of several classes.
        observation: The update and the batch size.
        generator: CPU generator of the probe samples that estimate the mean prediction.
    """
    task = target.task
    head, size = find_head(target, observation, generator), observation.batch_size
    signal, exact = last_layer_signal(observation, head, one_class=False)
    if signal is None:
        none = torch.full((size, task.classes), UNKNOWN)
        return LabelGuess(none, "no linear last layer found: no class assumed", exact=False, assumed=True, open=True)
    if size == 1 and not task.sign_tells:
        return _by_own_loss(target, observation, head, signal)
    if size == 1:
        marked = (signal < 0).float()[None].cpu()
        return LabelGuess(marked, "signs of the last layer's gradient, a class each", exact)
    counts = class_counts(task, observation, head, signal)
    shares = (counts / size).float().expand(size, -1).clone()
    how = "counts of each class from the last layer's gradient"
    return LabelGuess(shares, how, exact=False, open=True)


def class_counts(task: Task, observation: Observation, head: Head, signal: Tensor) -> Tensor:
    """How many samples of the batch have each class (K,), whole numbers.

    Args:
        task: Of several classes.
        observation: For the batch size.
        head: The last layer on probe samples.
        signal: Mean error of each logit (K,).
    """
    size, likely = observation.batch_size, head.logits.detach().double().cpu()
    no, yes = (_mean_error(task, likely, mark) for mark in (0.0, 1.0))
    apart = torch.where((no - yes).abs() > torch.finfo(likely.dtype).tiny, no - yes, torch.inf)
    return (size * (no - signal.double().cpu()) / apart).round().clamp(0, size)


def _mean_error(task: Task, outputs: Tensor, mark: float) -> Tensor:
    """The mean error (K,) of outputs (N, K) that are all labelled alike."""
    leaf = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(task.loss(leaf, torch.full_like(outputs, mark)), leaf)
    return slope.sum(0)


def _by_own_loss(target: Target, observation: Observation, head: Head, signal: Tensor) -> LabelGuess:
    """The labels of one sample under a loss of the user's own, from its outputs and its error."""
    plain = observation.plain and not observation.rescaled and observation.protocol.one_gradient
    found = logits_of_one(target, observation, head) if plain else None
    outputs = head.logits.detach().mean(0, keepdim=True) if found is None else found
    marked = target.task.behind(outputs.float(), signal[None].to(outputs.device).float()).cpu()
    if found is None:
        return LabelGuess(marked, "nearest error under the loss, on look-alikes", exact=False, open=True)
    return LabelGuess(marked, "nearest error under the loss, a class each", exact=False)
