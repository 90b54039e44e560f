r"""Cross-entropy over K classes with what training code adds to it: label smoothing, class weights, the focal factor.

.. math:: \ell = \frac{\sum_{ic} w_c\, \tilde y_{ic} (1 - p_{ic})^\gamma (-\log p_{ic})}{\sum_{ic} w_c\, y_{ic}},
    \qquad \tilde y = (1 - s)\, y + s / K

as torch's ``CrossEntropyLoss`` with ``label_smoothing`` s and ``weight`` w (which a mean divides by), and with the
factor of Lin et al. 2017 (arXiv 1708.02002) for γ > 0. Labels are class indices or shares y of the classes.

Without smoothing the error at the logits, :math:`\partial\ell/\partial z`, is negative at the label and nowhere else,
whatever w and γ are. With smoothing it can be negative elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of what takes no part in the loss, by torch's default."""


@dataclass(frozen=True)
class ClassLoss:
    """A loss over K classes.

    Args:
        smoothing: s, the share of a label that all classes have alike.
        weights: w (K,); empty where all are one.
        gamma: γ of the focal factor; 0 without one.
    """

    smoothing: float = 0.0
    weights: tuple[float, ...] = ()
    gamma: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it is cross-entropy alone, whose error at the logits is the prediction minus the label."""
        return self == PLAIN

    @property
    def sign_tells(self) -> bool:
        """Whether the error is negative at the label alone."""
        return self.smoothing == 0

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, of logits (N, K) against class indices (N,) or shares of the classes (N, K)."""
        if self.plain:
            return F.cross_entropy(scores, labels.to(scores.dtype) if labels.is_floating_point() else labels)
        shares = labels.to(scores) if labels.is_floating_point() else _shares(labels, scores)
        weights = scores.new_tensor(self.weights) if self.weights else scores.new_ones(scores.shape[1])
        logs = scores.log_softmax(1)
        terms = -weights * logs
        if self.gamma:
            terms = terms * (-torch.expm1(logs)).clamp_min(torch.finfo(logs.dtype).eps) ** self.gamma
        spread = (1 - self.smoothing) * shares + self.smoothing / scores.shape[1] * shares.sum(1, keepdim=True)
        return (spread * terms).sum() / (shares * weights).sum()

    def describe(self) -> str:
        """In words."""
        told = [f"γ = {self.gamma:g}"] if self.gamma else []
        told += [f"label smoothing {self.smoothing:g}"] if self.smoothing else []
        told += ["class weights"] if self.weights else []
        name = "focal loss" if self.gamma else "cross-entropy"
        return f"{name} ({', '.join(told)})" if told else name


PLAIN = ClassLoss()
"""Cross-entropy alone."""


def _shares(labels: Tensor, scores: Tensor) -> Tensor:
    """Class indices (N,) as shares (N, K); rows of zeros where a label is ignored."""
    shares = torch.zeros_like(scores)
    kept = labels != IGNORED
    return shares.scatter(1, labels.clamp_min(0)[:, None], kept[:, None].to(scores))
