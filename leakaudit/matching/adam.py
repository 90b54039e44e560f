"""Adam (Kingma and Ba 2015, arXiv 1412.6980) and AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

torch's own, by the functions that do its steps: ``torch.optim.Adam`` imports torch's compiler as soon as it is given a
tensor, which takes a second. Here is what these functions need between two steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of the paper and torch's defaults."""
DECAY = 1e-2
"""Weight decay of AdamW; torch's default."""


class Adam:
    """Steps on tensors in place, as ``torch.optim.Adam`` or ``AdamW`` takes them with their defaults.

    Args:
        values: What is moved.
        decoupled: Whether to be AdamW.
    """

    def __init__(self, values: Sequence[Tensor], *, decoupled: bool = False) -> None:
        self._values, self._decoupled = list(values), decoupled
        self._means = [torch.zeros_like(value) for value in self._values]
        self._squares = [torch.zeros_like(value) for value in self._values]
        self._steps = [torch.tensor(0.0) for _ in self._values]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """One step against gradients, a tensor for each of the values."""
        function, decay = (adamw, DECAY) if self._decoupled else (adam, 0.0)
        function(
            *(self._values, list(gradients), self._means, self._squares, [], self._steps),
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=decay,
            eps=EPSILON,
            maximize=False,
        )
