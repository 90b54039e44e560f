"""Defences that every client applies to its own update before a secure aggregation adds them up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update, protected
from leakaudit.defences.evidence import Check, ErrorBound, Guarantee, flat
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.obstacles import Circumstances
from leakaudit.defences.residual import noise_checks
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play, Protocol
from leakaudit.target.target import Target

SEEDS = 2**48
"""Seeds that clients draw from, one each; chosen, below what a seed may be."""
SAME = 1e-3
"""Largest relative difference of two means of clipped updates in float32; chosen, as in
`leakaudit.defences.residual`."""


@dataclass(frozen=True)
class Clients:
    """Whose updates are summed.

    Args:
        sizes: Samples of each client; none where all have as many.
        weights: Of each in the mean; they sum to 1.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def remaining(self) -> float:
        """Share of a client's independent noise that is left in the mean: √Σ w²."""
        return math.sqrt(sum(weight**2 for weight in self.weights))

    def samples(self, batch_size: int) -> tuple[int, ...]:
        """Of each client, of so many behind the sum."""
        count = len(self.weights)
        return self.sizes or (batch_size // count,) * count

    def each(self, protocol: Protocol) -> list[Protocol]:
        """The protocol of each of them, equal ones once."""
        parts = protocol.parts(self.samples(protocol.batch_size))
        return list(dict.fromkeys(own for _, own in parts))

    def first(self, protocol: Protocol) -> Protocol:
        """The protocol of the first of them."""
        return self.each(protocol)[0]


@dataclass(frozen=True, kw_only=True)
class EachClient(Defence):
    """The last of some defences that act before the sum, as seen on the mean.

    Args:
        chain: All that every client applies up to this one, in order.
        clients: Whose updates are summed.
        last: Whether no other of the chain stands behind it.
    """

    chain: tuple[Defence, ...]
    clients: Clients = field(repr=False)
    last: bool = True

    @property
    def inner(self) -> Defence:
        """The one that this stands for."""
        return self.chain[-1]

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its own."""
        return self.inner.name

    @property
    def like(self) -> str:  # type: ignore[override]
        """Its own."""
        return self.inner.like

    @property
    def title(self) -> str:  # type: ignore[override]
        """Its own, and where it acts."""
        return f"{self.inner.title}, at each of {len(self.clients.weights)} clients"

    @property
    def adaptive(self) -> str:  # type: ignore[override]
        """What is left of its counterpart on a mean."""
        return "knows the noise that is left in the mean" if self.inner.summed else ""

    @property
    def reference(self) -> str:  # type: ignore[override]
        """Its own."""
        return self.inner.reference

    @property
    def settings(self) -> dict[str, Any]:
        """Its own, and where it acts."""
        return {**self.inner.settings, "at": "each client"}

    def __str__(self) -> str:
        return str(self.inner)

    @property
    def acts_on_samples(self) -> bool:
        """As its own."""
        return self.inner.acts_on_samples

    @property
    def post_processing(self) -> bool:
        """As its own, for what the client before it has made."""
        return self.inner.post_processing

    @property
    def hands_over(self) -> bool:
        """Whether its counterpart survives the sum."""
        return self.inner.summed

    def known_to(self, adapts: Any) -> bool:
        """Only where its counterpart survives the sum."""
        return self.inner.summed and self.inner.known_to(adapts)

    def model(self, target: Target, generator: Generator) -> Target:
        """Its own."""
        return self.inner.model(target, generator)

    def protocol(self, protocol: Protocol) -> Protocol:
        """Its own, of a single client: the sum comes after it."""
        return self.inner.protocol(protocol)

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """The mean of what the clients share, each after the whole chain; tensors that are left out already stay
        out. The chain runs once, where the last of it stands."""
        if not self.last:
            return update
        total: dict[str, Tensor] = {}
        for member in step.members():
            seed = int(torch.randint(SEEDS, (1,), generator=generator))
            own = {name: member.update[name] for name in update}
            shared = member.step.sent(protected(own, member.step, self.chain, seed))
            total = {name: member.weight * t + total.get(name, 0.0) for name, t in shared.items()}
        return total

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With what is left of its noise in the mean; what it does to a single client's update is not undone."""
        member = self.clients.first(observation.protocol)
        own = replace(observation, protocol=member, noise=0.0, channel=None)
        _, seen = self.inner.adapt(target, own)
        kept = observation.protocol if seen.protocol == member else observation.protocol.privately(None)
        return target, replace(
            observation,
            protocol=kept,
            noise=math.hypot(observation.noise, seen.noise * self.clients.remaining),
            rescaled=seen.rescaled or seen.channel is not None,
            pruned=seen.pruned,
            rounding=seen.rounding,
        )

    def check_step(self, step: ClientStep, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The noise that is left in the mean, and below it the mean of what the clients clipped."""
        quiet = [(m, self.inner.quiet(m.step.sent(m.update), m.step)) for m in step.members()]
        if len(self.chain) > 1 or not step.replayed or any(found is None for _, found in quiet):
            return []
        clean = {n: sum((m.weight * found[0][n] for m, found in quiet if found), torch.zeros(())) for n in shared}
        level = max(found[1] for _, found in quiet if found) * self.clients.remaining
        if level:
            return noise_checks(raw, clean, shared, level, clips=True)
        rest = float((flat(shared, shared) - flat(clean, shared)).norm() / flat(clean, shared).norm().clamp_min(1e-300))
        return [Check("relative difference from the mean of the clients' own", "0", f"{rest:.1e}", rest <= SAME)]

    def unchecked(self, step: ClientStep) -> str:
        """As its own; of several in a row nothing is told apart."""
        if len(self.chain) > 1:
            return "what each of several defences did to the clients' updates is not told apart"
        return self.inner.unchecked(step)

    def guarantee(self, batch_size: int, prior: float) -> Guarantee | None:
        """Of the client that is protected least by its own noise, whatever the others do."""
        sizes = dict.fromkeys(self.clients.samples(batch_size))
        return self._weakest([self.inner.guarantee(size, prior) for size in sizes])

    def guaranteed(self, protocol: Protocol, prior: float) -> Guarantee | None:
        """As :meth:`guarantee`, for clients of a protocol."""
        return self._weakest([self.inner.guaranteed(own, prior) for own in self.clients.each(protocol)])

    def _weakest(self, each: Sequence[Guarantee | None]) -> Guarantee | None:
        """The guarantee that all clients have: that of the worst; none where one of them has none."""
        known = [found for found in each if found is not None]
        if len(known) < len(each):
            return None
        found = max(known, key=lambda one: (one.epsilon, one.reconstruction))
        told = (
            f"{found.reading}; each of {len(self.clients.weights)} clients does so before the sum, and the "
            f"bound is from its "
            f"own noise alone, of which a share of {self.clients.remaining:.3g} is left in the mean beside that "
            f"of the others"
        )
        return dataclasses.replace(found, reading=told)

    def unbounded(self, entries: int) -> str:
        """Its own."""
        return self.inner.unbounded(entries)

    def obstacle(self, circumstances: Circumstances) -> str:
        """Its own, for any of the clients."""
        sizes = dict.fromkeys(self.clients.samples(circumstances.batch_size))
        found = (self.inner.obstacle(replace(circumstances, batch_size=size)) for size in sizes)
        return next(filter(None, found), "")

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """Its own, from the settings, of the client with the fewest samples: what a single one sent is in no sum."""
        member = min(self.clients.each(practice.protocol), key=lambda own: own.batch_size)
        return self.inner.misuses(replace(practice, protocol=member, raw=None, shared=None, buffers={}))

    def error_bound(self, target: Target, observation: Observation, play: Play, generator: Generator) -> ErrorBound:
        """None: others are in the sum."""
        return ErrorBound(None, "computed for the update of one client only")
