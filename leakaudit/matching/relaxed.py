r"""Gradient matching over unknowns without bounds: categories by a softmax, numbers by a sigmoid over their range.

.. math:: x_{block} = \mathrm{softmax}(z_{block} / \tau), \qquad x_k = low_k + (high_k - low_k)\, σ(z_k)

so that every guess is one of the domain, and one level of a category grows at the expense of the others (Vero et al.
2023, arXiv 2210.01785, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from leakaudit.domains.base import Domain
from leakaudit.matching.priors import Variables
from leakaudit.matching.problem import Case, GradientMatching
from leakaudit.protocols.base import Play


class Relaxation:
    """From unknowns without bounds to guesses of a domain with blocks.

    Args:
        domain: Has a box and blocks.
        like: For type and device.
        temperature: τ.
        possible: Entries (D,) of a row that a category may have; by default all.
    """

    def __init__(self, domain: Domain, like: Tensor, temperature: float, possible: Tensor | None = None) -> None:
        low, high = (bound.to(like).expand(domain.shape).reshape(-1) for bound in domain.box(like))
        self.low, self.width, self.temperature = low, high - low, temperature
        size = len(low)
        self.member = torch.zeros((size, len(domain.blocks)), dtype=like.dtype, device=like.device)
        self.first = torch.arange(size, device=like.device)
        for column, (start, stop) in enumerate(domain.blocks):
            self.member[start:stop, column] = 1
        self.grouped = self.member.any(1)
        self.possible = self.grouped if possible is None else self.grouped & possible.to(self.grouped.device)

    def __call__(self, free: Tensor) -> Tensor:
        """Guesses (…, *shape) of unknowns of the same shape, differentiable."""
        flat = free.reshape(*free.shape[:1], -1) if free.dim() > 1 else free[None]
        scaled = (flat / self.temperature).clamp(-LARGEST, LARGEST)
        grown = scaled.exp() * self.possible
        total = grown @ self.member @ self.member.T
        softmax = grown / total.masked_fill(~self.grouped, 1.0)
        number = self.low + self.width * torch.sigmoid(flat)
        return torch.where(self.grouped, softmax, number).reshape(free.shape)


LARGEST = 40.0
"""Largest unknown over τ that a softmax sees: float32 holds the exponential of 88, and 40 already is a certainty; by
precision."""


class RelaxedMatching(GradientMatching):
    """The objective as a function of unknowns without bounds.

    Args:
        relaxation: From unknowns to inputs.
        *rest: As of `leakaudit.matching.problem.GradientMatching`.
        **facts: As well.
    """

    def __init__(self, relaxation: Relaxation, *rest: Any, **facts: Any) -> None:
        super().__init__(*rest, **facts)
        self.relaxation = relaxation

    def play(self, variables: Variables, case: Case | None = None) -> Play:
        """The guess of what the client did, with inputs of the domain."""
        return super().play({**variables, "inputs": self.relaxation(variables["inputs"])}, case)

    def project(self, names: Sequence[str], values: Sequence[Tensor]) -> None:
        """Nothing: every value of the unknowns is a guess."""
