"""More samples behind one update: larger batches, accumulated gradients, and secure aggregation of several clients.

To the server all three are the same thing, a mean gradient over more samples: with FedSGD and clients of equal weight,
the sum that secure aggregation reveals (Bonawitz et al. 2017, doi 10.1145/3133956.3133982) is the gradient of the
clients' joint batch. So they are audited by multiplying the batch size; the attacker adapts by attacking that batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from leakaudit.defences.base import Defence
from leakaudit.protocols.base import Protocol


@dataclass(frozen=True, kw_only=True)
class _Larger(Defence):
    """Multiplies the number of samples behind an update."""

    adaptive: ClassVar[str] = "attacks all samples behind the update together"

    @property
    def factor(self) -> int:
        """Samples behind an update, over those without the defence."""
        raise NotImplementedError

    def _check(self, name: str) -> None:
        if self.factor < 1:
            raise ValueError(f"{name} is {self.factor}, expected at least 1")

    def protocol(self, protocol: Protocol) -> Protocol:
        """The protocol with the larger batch."""
        return replace(protocol, batch_size=protocol.batch_size * self.factor)


@dataclass(frozen=True, kw_only=True)
class Accumulation(_Larger):
    """Share the mean gradient of several batches, all at the same weights.

    Args:
        accumulate: Batches.
    """

    accumulate: int

    name: ClassVar[str] = "accumulate"
    title: ClassVar[str] = "Gradient accumulation (larger batch)"
    reference: ClassVar[str] = "Geiping et al., Inverting gradients, arXiv 2003.14053, section 6 (batch size)"
    order: ClassVar[int] = 40

    def __post_init__(self) -> None:
        self._check("accumulate")

    @property
    def factor(self) -> int:
        """Number of batches."""
        return self.accumulate

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Four and sixteen batches, where there are samples enough."""
        return tuple(f"accumulate={n}" for n in (4, 16) if n * batch_size <= samples)


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(_Larger):
    """The server sees the mean of several clients' updates only.

    Args:
        clients: Clients in a round.
    """

    clients: int

    name: ClassVar[str] = "clients"
    title: ClassVar[str] = "Secure aggregation"
    reference: ClassVar[str] = "Bonawitz et al., Practical secure aggregation, CCS 2017, doi 10.1145/3133956.3133982"
    order: ClassVar[int] = 45

    def __post_init__(self) -> None:
        self._check("clients")

    @property
    def factor(self) -> int:
        """Number of clients."""
        return self.clients
