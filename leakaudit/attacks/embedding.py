"""Embedding rows: which tokens a text model saw, for any batch size.

The embedding table E enters the loss through the rows of the tokens that occur and through no other, so

.. math:: \\frac{∂ℓ}{∂E_v} = \\sum_{i,t:\\, x_{it} = v} \\frac{∂ℓ}{∂h_{it}}

is zero, to the last bit, for every token v that is not in the batch, and non-zero for the others except by chance. The
number of non-zero rows is the number of different tokens. Says nothing about order, counts, or which sample a token
belongs to: DAGER goes on from here.

Over local steps the rows that moved are the tokens of all steps, whatever the optimizer: one that keeps moments moves
nothing without a gradient, as they begin at zero in every round. Weights that were exchanged differ bit by bit or
not at all, so nothing of their rounding is in the test. Weight decay is taken off first where it shrinks all rows
alike (SGD, AdamW); with Adam's coupled decay every row moves.

Through known noise of standard deviation σ on every entry, a row counts if it is longer than a row of noise alone,
``‖ξ‖² ~ σ² χ²_d``; the probability that any row is taken for a token by chance is at most
`leakaudit.attacks.reading.noise.FALSE_ALARM`. Tokens whose row is shorter than that are missed. Pruning, signs and
rounding leave rows of zeros as they are; they may zero others, so the set is one of tokens that occur for certain.

Fails where the table is frozen, where it is also the output layer (tied weights), and where noise of unknown size was
added to every row, or signs were taken of a noisy update.
Reference: Melis et al., Exploiting Unintended Feature Leakage in Collaborative Learning, S&P 2019, arXiv 1805.04049.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.reading.confirm import fill_labels
from leakaudit.attacks.reading.first_layer import mid_grey
from leakaudit.attacks.reading.noise import FALSE_ALARM, live_rows, step_of
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, TokenReading
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

SEEN_THROUGH = (
    "dp", "prune", "sign", "int", "accumulate", "clients", "share", "soteria", "precode", "dropout",
)  # fmt: skip
"""Defences under which a row of the table is still zero, or noise of known size, for tokens that are not there."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """Nothing to set: a row is zero or it is not."""


def seen_tokens(observation: Observation, table: str) -> tuple[Tensor, str]:
    """Tokens whose row of the table's gradient is more than the known noise, ascending, and how that was told."""
    tokens = live_rows(observation.update[table], observation.noise, step_of(observation, table))
    if observation.noise == 0:
        return tokens, f"non-zero rows of {table}"
    return tokens, f"rows of {table} beyond the noise, none by chance with probability {1 - FALSE_ALARM:.6f}"


def tied(target: Target, table: str) -> bool:
    """Whether the outputs depend on rows of the table that the input does not name: it is the output layer as well.

    Args:
        target: The model.
        table: Name of its embedding table.
    """
    weight = target.parameters.get(table)
    if weight is None:
        return False
    size = min(target.batch_sizes) if target.batch_sizes else 1
    outputs = target.logits(torch.zeros((size, *target.image_shape), device=weight.device))
    (slope,) = torch.autograd.grad(outputs.square().sum(), [weight], allow_unused=True)
    return slope is not None and bool(slope[1:].any())


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
    told: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = SEEN_THROUGH
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
        if tied(target, table):
            return NotApplicable(
                f"the embedding table {table} is tied to the output: every update moves all of its rows, so they name "
                "no tokens"
            )
        if observation.noise > 0 and observation.one_bit:
            return NotApplicable("signs of a noisy update: no row is zero, and none longer than another")
        if len(seen_tokens(observation, table)[0]) == len(gradient):
            return NotApplicable(
                f"every row of {table} moved: it is tied to the output, carries noise, or the batch uses the whole "
                "vocabulary"
            )
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """The rows that are not zero."""
        table = str(target.domain.table)
        gradient = observation.update[table]
        found, how = seen_tokens(observation, table)
        found = found.cpu()
        none = torch.empty(0, dtype=torch.long)
        # a row of zeros is a fact, one that is told from noise is not
        sure = torch.ones(observation.batch_size, dtype=torch.bool) if observation.plain else None
        return Reconstruction(
            inputs=mid_grey(observation, gradient),
            labels=fill_labels(target, none, observation, gradient.device),
            match=float("nan"),
            notes=(f"{counted(found)}: {how}",),
            tokens=TokenReading(found, torch.zeros((observation.batch_size, target.image_shape[-1]), dtype=torch.bool)),
            confirmed=sure,
        )
