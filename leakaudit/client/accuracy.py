"""How many of the private samples the model classifies right: where samples are misread, it is the first to suffer.

An untrained model is at chance whatever it is fed. A trained one that is far below what its owner knows of it was fed
other pixels, other labels or another order of classes than it was trained with, and then the audited update is not the
client's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.errors import AuditError
from leakaudit.target.target import Target

MOST = 1000
"""Samples that are classified; chosen: their share is then known to 0.03, for the time of a few steps of an attack."""
LUCK = 2.0
"""Standard deviations that a share may lie above chance by luck; chosen."""
FEWEST = 20
"""Samples that are classified however large they are; chosen."""
AT_ONCE = 64
"""Samples in one forward pass; chosen for memory."""
USUAL = 3072
"""Entries of a sample for which these numbers are chosen, those of CIFAR-10; of larger ones there are fewer."""


@dataclass(frozen=True)
class Accuracy:
    """The model on the samples.

    Args:
        share: Of them that are classified right, or ``None``.
        samples: How many were classified.
        reason: Why there is no share.
    """

    share: float | None
    samples: int = 0
    reason: str = ""

    def told(self, classes: int, misread: str) -> str:
        """One line for whoever watches: the share, and what to check where guessing reaches as much.

        Args:
            classes: Of which each sample has one; 0 where labels are something else.
            misread: What of samples of this kind is easily misread, for a sentence.
        """
        if self.share is None:
            return ""
        told = f"the model classifies {self.share:.0%} of {self.samples} samples right"
        if classes < 2:
            return told
        chance = 1 / classes
        luck = LUCK * math.sqrt(chance * (1 - chance) / self.samples)
        if self.share > chance + luck:
            return f"{told}; chance is {chance:.0%}"
        check = f"check {misread} and the order of the classes"
        return f"{told}, no more than chance ({chance:.0%}): if it is trained, {check}"


def accuracy_on(target: Target, samples: Batch, domain: Domain) -> Accuracy:
    """Classify the first samples of a file, in eval mode; the model is left as it was.

    Args:
        target: The model.
        samples: At least one; of soft labels the class with the largest share counts.
        domain: With the client's normalisation.
    """
    if not samples.known:
        return Accuracy(None, reason="nobody has the samples behind the update")
    larger = max(1.0, prod(domain.shape) / USUAL)
    size = max(target.batch_sizes) if target.batch_sizes else max(1, int(AT_ONCE / larger))
    count = min(len(samples), max(FEWEST, int(MOST / larger)))
    right = 0.0
    try:
        with evaluated(target.module), torch.no_grad():
            for begin in range(0, count, size):
                chosen = list(range(begin, min(begin + size, count)))
                found = _right(target, samples, domain, chosen, size if target.batch_sizes else len(chosen))
                if found is None:
                    return Accuracy(None, reason=f"a model of {target.task.name} classifies nothing")
                right += found
    except AuditError as error:
        return Accuracy(None, reason=error.message)
    return Accuracy(right / count, count)


def _right(target: Target, samples: Batch, domain: Domain, chosen: list[int], size: int) -> float | None:
    """How many of these are classified right, of several labels by their share.

    For a model of fixed batches the last one is repeated.
    """
    part = samples.subset([*chosen, *chosen[-1:] * (size - len(chosen))])
    like = next(iter(target.parameters.values()))
    inputs = domain.encode(part.images.to(like.device))
    right = target.task.correct(target.logits(inputs), part.labels.to(like.device))
    return None if right is None else float(right[: len(chosen)].sum())


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Every layer in eval mode; afterwards each in the one that it was in."""
    training = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, mode in training.items():
            layer.training = mode
