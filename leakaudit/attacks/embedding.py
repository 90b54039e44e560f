"""Embedding rows: which tokens a text model saw, for any batch size.

The embedding table E enters the loss through the rows of the tokens that occur and through no other, so

.. math:: \\frac{∂ℓ}{∂E_v} = \\sum_{i,t:\\, x_{it} = v} \\frac{∂ℓ}{∂h_{it}}

is zero, to the last bit, for every token v that is not in the batch, and non-zero for the others except by chance. The
number of non-zero rows is the number of different tokens. Says nothing about order, counts, or which sample a token
belongs to: DAGER goes on from here. Fails where the table is frozen, where it is also the output layer (tied weights),
and where noise was added to every row. Reference: Melis et al., Exploiting Unintended Feature Leakage in Collaborative
Learning, S&P 2019, arXiv 1805.04049.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.reading.confirm import fill_labels
from leakaudit.attacks.reading.first_layer import mid_grey
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, TokenReading
from leakaudit.target.target import Target


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """Nothing to set: a row is zero or it is not."""


def token_set(table_gradient: Tensor) -> Tensor:
    """Tokens whose row of the table's gradient (V, d) is not zero, ascending."""
    return table_gradient.abs().sum(1).nonzero().flatten()


def counted(tokens: Tensor) -> str:
    """The size of a token set, for a note; the tokens are private and stay out of notes."""
    return f"{len(tokens)} different tokens"


class EmbeddingReader(Attack):
    """Reads the token set of a batch from the rows of the embedding table's gradient."""

    name: ClassVar[str] = "embedding"
    title: ClassVar[str] = "Embedding rows (token set)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA207"
    needs: ClassVar[str] = "a model over token ids whose embedding table is trained and not tied to the output"
    reference: ClassVar[str] = "Melis et al., S&P 2019, arXiv 1805.04049"
    cost: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    presets: ClassVar[dict[str, EmbeddingSettings]] = {
        "quick": EmbeddingSettings(),
        "standard": EmbeddingSettings(),
        "paper": EmbeddingSettings(),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs the gradient of the table, with some rows of zeros."""
        table = str(target.domain.table)
        gradient = observation.update.get(table)
        if gradient is None:
            return NotApplicable(f"the embedding table {table} is not trained, so not in the update")
        if len(token_set(gradient)) == len(gradient):
            return NotApplicable(
                f"every row of {table} moved: it is tied to the output, carries noise, or the batch uses the whole "
                "vocabulary"
            )
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """The rows that are not zero."""
        table = str(target.domain.table)
        gradient = observation.update[table]
        found = token_set(gradient).cpu()
        none = torch.empty(0, dtype=torch.long)
        return Reconstruction(
            inputs=mid_grey(observation, gradient),
            labels=fill_labels(none, observation, gradient.device),
            match=float("nan"),
            notes=(f"{counted(found)}: non-zero rows of {table}",),
            tokens=TokenReading(found, torch.zeros((observation.batch_size, target.image_shape[-1]), dtype=torch.bool)),
        )
