"""More samples behind one update: larger batches, accumulated gradients, and secure aggregation of several clients.

Of clients that share one gradient, all three are the same thing to the server, a mean gradient over more samples: with
clients of equal weight, or weighted by their numbers of samples, the sum that secure aggregation reveals (Bonawitz et
al. 2017, doi 10.1145/3133956.3133982) is the gradient of the clients' joint batch. So they are audited by multiplying
the batch size. Clients that train locally do so on samples of their own, and the mean of what they send is attacked
(`leakaudit.protocols.aggregated`).

Order matters: what stands before ``clients=10`` is done by each client to its own update, before the sum; what stands
after it is done to the mean. Independent noise of ten clients leaves a tenth of its variance in the mean, and what
each of them clipped is not clipped again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from leakaudit.defences.base import Defence
from leakaudit.defences.members import Clients, EachClient
from leakaudit.defences.units import moves
from leakaudit.errors import UsageError
from leakaudit.protocols.aggregated import Aggregated
from leakaudit.protocols.base import Protocol

MOST_CLIENTS = 1_000_000
"""Clients of one round at most; chosen: each has a place in lists."""


@dataclass(frozen=True, kw_only=True)
class Accumulation(Defence):
    """Share the mean gradient of several batches, all at the same weights.

    Args:
        accumulate: Batches.
    """

    accumulate: int

    name: ClassVar[str] = "accumulate"
    title: ClassVar[str] = "Gradient accumulation (larger batch)"
    adaptive: ClassVar[str] = "attacks all samples behind the update together"
    reference: ClassVar[str] = "Geiping et al., Inverting gradients, arXiv 2003.14053, section 6 (batch size)"
    order: ClassVar[int] = 40

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}, expected at least 1")

    def protocol(self, protocol: Protocol) -> Protocol:
        """The protocol with the larger batch.

        Raises:
            UsageError: Clients take local steps, whose size is a setting of their own.
        """
        if moves(protocol):
            raise UsageError(
                f"--defence {self} is of clients that share one gradient, and these train locally",
                "say how many samples a local step has: --local-batch-size",
            )
        return replace(protocol, batch_size=protocol.batch_size * self.accumulate)

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Four and sixteen batches, where there are samples enough."""
        return tuple(f"accumulate={n}" for n in (4, 16) if n * batch_size <= samples)


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Defence):
    """The server sees the mean of several clients' updates only.

    Args:
        clients: Clients in a round.
        examples: Samples of each client, as ``4|8|4``; empty where all have as many.
        weighted: Whether the mean is weighted by them, as strategies do by default; otherwise all clients count alike.
    """

    clients: int
    examples: str = ""
    weighted: bool = True

    name: ClassVar[str] = "clients"
    title: ClassVar[str] = "Secure aggregation"
    adaptive: ClassVar[str] = "attacks all samples behind the update together"
    reference: ClassVar[str] = "Bonawitz et al., Practical secure aggregation, CCS 2017, doi 10.1145/3133956.3133982"
    order: ClassVar[int] = 45
    gathers: ClassVar[bool] = True
    units: ClassVar[str] = (
        "a defence that is named before clients=… acts on every client's update, one that is named after it on "
        "their mean"
    )
    remains: ClassVar[str] = (
        "a mean is linear: rows of an embedding that moved are the union over all clients, and the row space "
        "of the first "
        "layer is spanned by the samples of all; which client a sample is from is not told"
    )

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= MOST_CLIENTS:
            raise ValueError(f"clients is {self.clients}, expected 1 to {MOST_CLIENTS}")
        if self.examples and (len(self.counts) != self.clients or min(self.counts) < 1):
            raise ValueError(f"examples is {self.examples!r}, expected {self.clients} numbers above 0, as 4|8|4")

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each client; none where all have as many."""
        return tuple(int(part) for part in self.examples.split("|")) if self.examples else ()

    def sizes(self, each: int) -> tuple[int, ...]:
        """Samples of each client, where one has so many by default."""
        return self.counts or (each,) * self.clients

    def weights(self) -> tuple[float, ...]:
        """Of each client in the mean; they sum to 1."""
        counts = self.counts if self.counts and self.weighted else (1,) * self.clients
        return tuple(count / sum(counts) for count in counts)

    def protocol(self, protocol: Protocol) -> Protocol:
        """The mean over the clients; of gradients that weigh their samples alike, the gradient of all of them."""
        sizes = self.sizes(protocol.batch_size)
        joint = not moves(protocol) and (self.weighted or len(set(sizes)) == 1)
        if joint:
            return replace(protocol, batch_size=sum(sizes))
        return Aggregated.of([replace(protocol, batch_size=size) for size in sizes], self.weights())

    def gathered(self, before: Sequence[Defence], *, last: bool = True) -> Defence:
        """The last of these as seen on the mean of what every client has made with them."""
        return EachClient(chain=tuple(before), clients=Clients(self.counts, self.weights()), last=last)

    @property
    def members(self) -> tuple[int, ...]:
        """How many there are, and their numbers of samples where those differ."""
        return self.counts or (0,) * self.clients
