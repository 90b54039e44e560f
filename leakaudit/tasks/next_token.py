"""The next token at each place of a text: a causal language model, whose labels are its own inputs, shifted by one.

Outputs are (B, L, V) over a vocabulary of V. The label at place t is the token at t + 1; at the last place, where no
token follows, it is `leakaudit.tasks.class_loss.IGNORED`, as it is wherever a client leaves places out of its loss.
Whoever reads the text has the labels with it, so they are no unknowns of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.tasks.base import Tally, rows_once
from leakaudit.tasks.class_loss import IGNORED
from leakaudit.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class NextToken(Segmentation):
    """A class per place, which is the next token.

    Args:
        channels: V, an output for each token at each place.
        places: (L,), the length of a text.
        last: True: the model returns (B, L, V).
        of: Cross-entropy.
        form: As of `Segmentation`.
        own: As well.
    """

    kind: ClassVar[str] = "next-token"
    name: ClassVar[str] = "the next token"
    has: ClassVar[str] = "the next token at each place"
    label_reader: ClassVar[str] = "leakaudit.client.readers.labels:next_tokens"
    inference: ClassVar[str] = "leakaudit.attacks.labels.following:infer_following"
    labelled: ClassVar[bool] = False

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """The tokens of inputs (B, *shape), shifted by one."""
        tokens = inputs.reshape(len(inputs), -1).round().long()
        return torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)], 1)

    def behind(self, outputs: Tensor, errors: Tensor) -> Tensor:
        """The token of each place whose error is smallest for its prediction; ignored where there is no error."""
        silent = self.arranged(errors).abs().amax(1) == 0
        return super().behind(outputs, errors).masked_fill(silent, IGNORED)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Random tokens; the last place has none."""
        drawn = super().draw(count, generator)
        drawn[:, -1] = IGNORED
        return drawn

    def match_labels(self, true: Tensor, inferred: Tensor) -> tuple[bool | None, ...]:
        """Whether a whole text is among the inferred ones, each used once."""
        return rows_once(true, inferred)

    def tally(self, true: Tensor, inferred: Tensor) -> Tally:
        """Tokens that are right wherever they stand; none is by chance."""
        known, read = (Counter(t[t != IGNORED].tolist()) for t in (true, inferred))
        return Tally(sum((known & read).values()), sum(known.values()), 0.0)

    def classes_in(self, labels: Tensor) -> list[int]:
        """None: tokens are told as rows."""
        return []

    def rows(self, labels: Tensor) -> list[list[float]]:
        """The tokens."""
        found: list[list[float]] = labels.tolist()
        return found

    def map_of(self, label: Tensor) -> Tensor | None:
        """Nothing to draw."""
        return None

    def describe(self) -> str:
        """The loss."""
        if self.own is not None:
            return f"the user's own {self.own.path}"
        return f"{self.form.describe()} over the next of {self.channels} tokens"
