"""Sequences of token ids: whole numbers (1, 1, L), rows of one embedding table; no order, no noise, no prior."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.domains.base import Domain, Start, drawn
from leakaudit.domains.references import TEXT_REFERENCES, Reference


@dataclass(frozen=True)
class Tokens(Domain):
    """The space of sequences of L token ids; there is nothing to normalise.

    Args:
        shape: ``(1, 1, L)``.
        vocabulary: Number of ids; they run from 0 to ``vocabulary - 1``.
        table: Name of the embedding table that they index.
        any_length: Whether the model leaves L open.
    """

    kind: ClassVar[str] = "tokens"
    takes: ClassVar[str] = "token ids"
    misread: ClassVar[str] = "that the token ids are of this model's vocabulary"
    measure: ClassVar[str] = "leakaudit.scoring.tokens:TokenMeasure"
    reader: ClassVar[str] = "leakaudit.client.readers.tokens:TokenReader"
    card: ClassVar[str] = "leakaudit.report.domains.tokens:TokenCard"
    uncounted: ClassVar[str] = (
        "the model takes token ids: whole numbers have no directions to count, so ranks say nothing"
    )

    shape: tuple[int, ...]
    vocabulary: int
    table: str | None = None
    any_length: bool = False

    @classmethod
    def of(cls, length: int, vocabulary: int, table: str | None = None, *, any_length: bool = False) -> Tokens:
        """The space of sequences of one length."""
        return cls((1, 1, length), vocabulary, table, any_length)

    def of_length(self, length: int) -> Tokens:
        """The same for sequences of another length."""
        return replace(self, shape=(1, 1, length))

    @property
    def sides(self) -> tuple[int, ...]:
        """The length."""
        return self.shape[2:]

    @property
    def ids(self) -> int:
        """The size of the vocabulary."""
        return self.vocabulary

    def encode(self, values: Tensor) -> Tensor:
        """Token ids as they are."""
        return values

    def decode(self, inputs: Tensor) -> Tensor:
        """Token ids as whole numbers."""
        return self.cast(inputs)

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest id, each of shape (1, 1, 1)."""
        zero = torch.zeros((1, 1, 1), dtype=like.dtype, device=like.device)
        return zero, zero + (self.vocabulary - 1)

    def cast(self, inputs: Tensor) -> Tensor:
        """The nearest ids, int64."""
        return inputs.round().long() if inputs.is_floating_point() else inputs

    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """Numbers without meaning: no optimisation attack reads ids."""
        return drawn(kind, (batch, *self.shape), generator)

    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        """Ids drawn from the vocabulary, as floating-point numbers."""
        return self.random_inputs(count, generator).float()

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Ids drawn from the vocabulary."""
        return torch.randint(self.vocabulary, (batch, *self.shape), generator=generator)

    @property
    def references(self) -> Sequence[Reference]:
        """Networks over texts, see `leakaudit.domains.references`."""
        return TEXT_REFERENCES

    def on(self, found: Domain) -> Domain:
        """The other model's own: a vocabulary belongs to its model."""
        return found

    def inside(self, prefix: str) -> Domain:
        """The table by its name in the larger model."""
        return self if self.table is None else replace(self, table=f"{prefix}.{self.table}")

    def exposed(self, trained: Collection[str]) -> tuple[str, ...]:
        """The rows of a trained table name the tokens."""
        if self.table not in trained:
            return ()
        return (f"the rows of {self.table} whose gradient is not zero are the tokens of the batch, in no order",)

    def neighbours(self, sample: Tensor) -> Iterator[Tensor]:
        """Every sequence that exchanges two different tokens of this one, or repeats one in another's place."""
        return (changed.view_as(sample) for changed in _neighbours(sample.flatten()))

    @property
    def not_unique(self) -> str:
        """The order or a count is open."""
        return "another order of its tokens, or another count of one, regenerates the update as well"

    def lookups(self) -> dict[str, str | int | bool | None]:
        """The table, the vocabulary, and whether any length will do."""
        return {"table": self.table, "vocabulary": self.vocabulary, "any_length": self.any_length}

    def told(self, layout: str, native: Sequence[int]) -> str:
        """Length, vocabulary and table."""
        some = "any number of" if self.any_length else str(self.shape[2])
        return f"{some} token ids of {self.vocabulary}, rows of {self.table}"

    def facts(self) -> dict[str, int]:
        """The size of the vocabulary."""
        return {"vocabulary": self.vocabulary}

    def describe(self) -> str:
        """There is no normalisation."""
        return "none: token ids"


def tokens_of(domain: Domain) -> Tokens:
    """The domain of a model over token ids.

    Raises:
        ValueError: It is another domain.
    """
    if not isinstance(domain, Tokens):
        raise ValueError(f"this needs a model over token ids, not one that takes {domain.takes}: ask `refusal` first")
    return domain


def _neighbours(tokens: Tensor) -> Iterator[Tensor]:
    length, different = len(tokens), sorted(set(tokens.tolist()))
    for i in range(length):
        for j in range(i + 1, length):
            if tokens[i] != tokens[j]:
                changed = tokens.clone()
                changed[[i, j]] = tokens[[j, i]]
                yield changed
        for token in different:
            if token != int(tokens[i]):
                changed = tokens.clone()
                changed[i] = token
                yield changed
