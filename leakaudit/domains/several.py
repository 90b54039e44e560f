"""Several inputs that are one sample together: a picture, a signal or a volume beside the row of a table.

A sample is one flat row, its parts one after the other, so that everything else holds a single tensor; it is taken
apart and put together here and nowhere else. Each part has a domain of its own, which is asked for whatever concerns
it: ranges, starts, look-alikes, what is unlikely. The prior of a sample is the sum of those of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.domains.base import Domain, Start
from leakaudit.domains.channels import Channels
from leakaudit.domains.references import TABLE_REFERENCES, Reference
from leakaudit.domains.schema import Column
from leakaudit.domains.table import Table


@dataclass(frozen=True)
class Member:
    """One part of a sample.

    Args:
        name: Of the model's input.
        domain: What it is.
        last: Whether the model takes its channels behind all other axes.
    """

    name: str
    domain: Domain
    last: bool = False

    @property
    def size(self) -> int:
        """How many entries it has."""
        return prod(self.domain.shape)


@dataclass(frozen=True)
class Several(Domain):
    """The space of samples that are several inputs.

    Args:
        shape: ``(1, 1, D)`` with D the entries of all parts.
        members: The parts, in the order of their entries; at most one of them is a table, and no metric has the same
            name in two of them.
    """

    kind: ClassVar[str] = "several"
    misread: ClassVar[str] = "--mean, --std, --schema, the order of the channels and columns"
    takes: ClassVar[str] = "several inputs, such as a picture beside the row of a table"
    measure: ClassVar[str] = "leakaudit.scoring.several:SeveralMeasure"
    reader: ClassVar[str] = "leakaudit.client.readers.several:SeveralReader"
    card: ClassVar[str] = "leakaudit.report.domains.several:SeveralCard"

    joint: ClassVar[bool] = True
    shape: tuple[int, ...]
    members: tuple[Member, ...]

    @classmethod
    def of(cls, members: Sequence[Member]) -> Several:
        """The samples of these parts."""
        return cls((1, 1, sum(member.size for member in members)), tuple(members))

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """First entry of each part, and the one behind its last."""
        ends = list(accumulate((member.size for member in self.members), initial=0))
        return tuple(pairwise(ends))

    def split(self, samples: Tensor) -> list[Tensor]:
        """The parts (…, *shape of each) of samples (…, 1, 1, D)."""
        lead = samples.shape[:-3]
        return [
            samples[..., 0, 0, first:stop].reshape(*lead, *member.domain.shape)
            for member, (first, stop) in zip(self.members, self.places, strict=True)
        ]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        flat = [
            part.reshape(*part.shape[: part.dim() - len(member.domain.shape)], 1, 1, -1)
            for member, part in zip(self.members, parts, strict=True)
        ]
        return torch.cat(flat, -1)

    def with_members(self, domains: Sequence[Domain]) -> Several:
        """The same parts with other domains."""
        members = [replace(member, domain=own) for member, own in zip(self.members, domains, strict=True)]
        return replace(self, members=tuple(members))

    def _each(self, samples: Tensor, change: Callable[[Domain, Tensor], Tensor]) -> Tensor:
        """A change of every part by its domain."""
        parts = zip(self.members, self.split(samples), strict=True)
        return self.joined([change(member.domain, part) for member, part in parts])

    def _made(self, make: Callable[[Domain], Tensor]) -> Tensor:
        return self.joined([make(member.domain) for member in self.members])

    @property
    def sides(self) -> tuple[int, ...]:
        """None: the parts have places of their own."""
        return ()

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """The categories of the parts."""
        return tuple(
            (first + start, first + stop)
            for member, (first, _) in zip(self.members, self.places, strict=True)
            for start, stop in member.domain.blocks
        )

    def encode(self, values: Tensor) -> Tensor:
        """Values to model inputs, both (B, 1, 1, D), part by part."""
        return self._each(values, lambda domain, part: domain.encode(part))

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs to values, both (B, 1, 1, D), part by part."""
        return self._each(inputs, lambda domain, part: domain.decode(part))

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest model input, each (1, 1, D)."""
        bounds = [member.domain.box(like) for member in self.members]
        low, high = (
            self.joined([b[i].expand(m.domain.shape) for m, b in zip(self.members, bounds, strict=True)])
            for i in (0, 1)
        )
        return low, high

    def projection(self, like: Tensor) -> Callable[[Tensor], object]:
        """Every part into its range, in place."""
        parts = [
            (member.domain, place, member.domain.projection(like))
            for member, place in zip(self.members, self.places, strict=True)
        ]

        def project(inputs: Tensor) -> None:
            lead = inputs.shape[:-3]
            for domain, (first, stop), move in parts:
                part = inputs[..., 0, 0, first:stop].reshape(*lead, *domain.shape).clone()
                move(part)
                inputs[..., 0, 0, first:stop] = part.reshape(*lead, -1)

        return project

    def cast(self, inputs: Tensor) -> Tensor:
        """Inputs in the order that the model takes: the channels of a part behind its other axes where it has them."""
        parts = []
        for member, part in zip(self.members, self.split(inputs), strict=True):
            own = member.domain.cast(part)
            turned = own.movedim(-len(member.domain.shape), -1) if member.last else own
            parts.append(turned.reshape(own.shape))
        return self.joined(parts)

    def finish(self, inputs: Tensor) -> Tensor:
        """Every part as its domain finishes it."""
        return self._each(inputs, lambda domain, part: domain.finish(part))

    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """The starts of the parts."""
        return self._made(lambda domain: domain.start(kind, batch, generator))

    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        """Look-alikes of the parts, independent of each other."""
        return self._made(lambda domain: domain.look_alikes(count, generator))

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Random inputs of the parts."""
        return self._made(lambda domain: domain.random_inputs(batch, generator))

    def roughness(self, inputs: Tensor) -> Tensor:
        """The sum over the parts."""
        parts = zip(self.members, self.split(inputs), strict=True)
        return torch.stack([member.domain.roughness(part) for member, part in parts]).sum()

    @property
    def references(self) -> Sequence[Reference]:
        """Networks over vectors, see `leakaudit.domains.references`: what they are fed is one flat row."""
        return TABLE_REFERENCES

    def on(self, found: Domain) -> Several:
        """The parts as any model takes them."""
        return replace(self, members=tuple(Member(m.name, m.domain.on(found)) for m in self.members))

    def inside(self, prefix: str) -> Several:
        """The parts for a model that is a part itself."""
        return self.with_members([member.domain.inside(prefix) for member in self.members])

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Several:
        """With the client's normalisation of the parts that have channels; a row has its schema.

        Raises:
            UsageError: The values do not fit.
        """
        domains = [member.domain for member in self.members]
        return self.with_members([own.normalised(mean, std) if isinstance(own, Channels) else own for own in domains])

    def with_columns(self, columns: Sequence[Column]) -> Several:
        """With what a schema says of the columns of the row.

        Raises:
            UsageError: The columns do not fit the model.
        """
        domains = [member.domain for member in self.members]
        return self.with_members([own.with_columns(columns) if isinstance(own, Table) else own for own in domains])

    @property
    def assumption(self) -> str:
        """What was guessed of the parts."""
        return "; ".join(filter(None, (member.domain.assumption for member in self.members)))

    def rescaled(self, slope: Tensor, offset: Tensor) -> tuple[Several, str]:
        """Every part for what the model does to it."""
        found = [
            member.domain.rescaled(slope[first:stop], offset[first:stop])
            for member, (first, stop) in zip(self.members, self.places, strict=True)
        ]
        return self.with_members([domain for domain, _ in found]), "; ".join(filter(None, (said for _, said in found)))

    def exposed(self, trained: Collection[str]) -> tuple[str, ...]:
        """What an update shows of the parts."""
        return tuple(said for member in self.members for said in member.domain.exposed(trained))

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of the first part that has them."""
        found = [member.domain.normalisation for member in self.members]
        return next((own for own in found if len(own[0])), ((), ()))

    def facts(self) -> dict[str, Any]:
        """What the parts say, and the parts themselves."""
        merged: dict[str, Any] = {}
        for member in self.members:
            merged |= member.domain.facts()
        parts = [{"name": m.name, "domain": m.domain.kind, "shape": list(m.domain.shape)} for m in self.members]
        return {**merged, "inputs": parts}

    def told(self, layout: str, native: Sequence[int]) -> str:
        """The parts in words."""
        parts = []
        for member in self.members:
            order = "channels last" if member.last else "channels first"
            parts.append(f"{member.name!r}: {member.domain.told(order, member.domain.shape)}")
        return f"samples of {len(parts)} inputs ({'; '.join(parts)})"

    def describe(self) -> str:
        """How each part is normalised."""
        return "; ".join(f"{member.name}: {member.domain.describe()}" for member in self.members)


def several_of(domain: Domain) -> Several:
    """The domain of a model over several inputs.

    Raises:
        ValueError: It is another domain.
    """
    if not isinstance(domain, Several):
        raise ValueError(f"this needs a model over several inputs, not one that takes {domain.takes}")
    return domain
