r"""Labels of one class under any loss: the class whose error at the logits is the observed one.

`leakaudit.attacks.labels.infer` reads labels by :math:`y = p - g`, which is the algebra of plain cross-entropy. With
label smoothing, class weights, the focal factor or a loss of the user's own the error at the logits is another function
e(z, y) of logits and label, and known to the attacker, who knows the loss:

* One sample: the last layer's update gives its input exactly (:math:`h = G^T g / \|g\|^2`), hence z. The label is the
  class whose error e(z, y) is g; where z is not had, and the error is negative at the label alone, the sign tells it.
* More: the shares ν of the classes are those whose error on look-alikes with soft labels ν,
  :math:`\tfrac1N \sum_n e(z_n, ν)`, is g. All losses here are linear in the label but for their norm, so what matters
  of the private logits is their mean. The counts are rounded; an estimate, better on an untrained network.

Fails where a loss of the user's own takes no shares of classes: then classes of a batch are assumed. Through noise,
clipping or signs the nearest direction decides for one sample.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from leakaudit.attacks.labels.counts import round_counts
from leakaudit.attacks.labels.head import Head, find_head, last_layer_signal
from leakaudit.attacks.labels.steps import halfway
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess, Task

FITS = 1e-3
"""Relative misfit up to which an error is a class's: rounding of float32 in the last layer is 1e-6; chosen."""
FEATURE = 1e-2
"""Relative misfit of the rank-one reading of the last layer beyond which its input is not had; chosen."""
STEPS = 200
"""Iterations of L-BFGS that fit the shares of classes; chosen."""


def infer_by_loss(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """Infer the labels behind an update by the loss itself; never looks at the batch.

    Args:
        target: The model, in the mode of the protocol; its task has one class per sample.
        observation: The update and the batch size.
        generator: CPU generator of the probe inputs.
    """
    task, size = target.task, observation.batch_size
    head = find_head(halfway(target, observation), observation, generator)
    signal, exact = last_layer_signal(observation, head, one_class=task.sign_tells)
    if signal is None:
        guess = torch.arange(size) % target.classes
        return LabelGuess(guess, "no linear last layer found: labels assumed 0, 1, 2, …", exact=False, assumed=True)
    if size == 1:
        return _one(target, observation, head, signal, exact)
    if not task.takes_shares:
        why = "the loss of your own takes class indices only: labels assumed 0, 1, 2, …"
        return LabelGuess(torch.arange(size) % target.classes, why, exact=False, assumed=True)
    counts = round_counts(shares_behind(task, head.outputs, signal), size)
    method = "class counts whose error on look-alikes is the last layer's"
    return LabelGuess(torch.repeat_interleave(torch.arange(len(counts)), counts), method, exact=False)


def _one(target: Target, observation: Observation, head: Head, signal: Tensor, signs: bool) -> LabelGuess:
    """The class of one sample whose error is nearest to the last layer's."""
    task = target.task
    plain = observation.plain and not observation.rescaled and observation.protocol.one_gradient
    logits = logits_of_one(target, observation, head) if plain else None
    if logits is None and task.sign_tells:
        label = int(signal[0] < 0) if target.binary else int(signal.argmin())
        return LabelGuess(torch.tensor([label]), "sign of the last layer's gradient", exact=plain and signs)
    known = head.logits.mean(0, keepdim=True) if logits is None else logits
    errors = class_errors(task, known.double().cpu())
    seen = signal.double().cpu()
    misfit = (errors - seen).norm(dim=1) / seen.norm().clamp_min(1e-300)
    if logits is None:  # a direction at most
        misfit = 1 - torch.nn.functional.cosine_similarity(errors, seen[None], dim=1)
        return LabelGuess(misfit.argmin()[None], "class with the nearest error on look-alikes", exact=False)
    best = misfit.argmin()
    method = "class whose error under the loss is the last layer's gradient"
    return LabelGuess(best[None], method, exact=int((misfit <= FITS).sum()) == 1)


def class_errors(task: Task, logits: Tensor) -> Tensor:
    """The error (K, outputs) at logits (1, outputs) of one sample under each class."""
    classes = torch.arange(task.classes)
    return task.errors(logits.expand(task.classes, -1), classes)


def logits_of_one(target: Target, observation: Observation, head: Head) -> Tensor | None:
    """The logits (1, outputs) of one sample from the last layer's update; ``None`` where it does not give them.

    Needs its weight and bias, both in the update, and a last layer that ends in the logits themselves.
    """
    if head.weight not in observation.update or head.bias not in observation.update:
        return None
    error = observation.update[str(head.bias)].flatten().double()
    rows = head.rows(dict(observation.update)).double()
    feature = rows.T @ error / error.square().sum().clamp_min(1e-300)
    if float((rows - error[:, None] * feature).norm()) > FEATURE * float(rows.norm()):
        return None
    parameters = target.parameters
    bias = parameters[str(head.bias)].detach().double().flatten()
    return (head.rows(dict(parameters)).detach().double() @ feature + bias)[None]


def shares_behind(task: Task, outputs: Tensor, signal: Tensor) -> Tensor:
    """Shares of the classes (K,) whose soft labels have this error on look-alikes.

    Args:
        task: Its loss takes shares of classes.
        outputs: Of look-alikes (N, outputs).
        signal: The gradient of a bias that all things classified share (channels,).
    """
    known, seen = outputs.detach().double().cpu().requires_grad_(), signal.detach().double().cpu()
    free = torch.zeros(task.classes, dtype=torch.float64, requires_grad=True)
    scale = seen.square().sum().clamp_min(1e-300)
    optimizer = torch.optim.LBFGS([free], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        labels = task.everywhere(free.softmax(0), len(known))
        (slope,) = torch.autograd.grad(task.loss(known, labels), known, create_graph=True)
        misfit = (task.by_class(slope).sum(0) - seen).square().sum() / scale
        (free.grad,) = torch.autograd.grad(misfit, free)
        return misfit.detach()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return free.detach().softmax(0)
