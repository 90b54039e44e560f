"""Dropout in front of the last layer as a defence: the client's masks make its update random.

DIA optimises the masks together with the inputs, and reads them off the update for one sample, so it is the adaptive
attack; IG, which ignores the masks, is the one that dropout looks strong against (Scheliga et al. 2022, arXiv
2208.06163).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator

from leakaudit.defences.base import Defence
from leakaudit.protocols.base import Protocol
from leakaudit.target.dropout import Dropout
from leakaudit.target.splice import last_linear, spliced
from leakaudit.target.target import Target


@dataclass(frozen=True, kw_only=True)
class AddedDropout(Defence):
    """Put dropout before the last layer and train with it.

    Args:
        dropout: Probability that a unit is zeroed; torch's default for ``Dropout``.
    """

    dropout: float = 0.5

    name: ClassVar[str] = "dropout"
    title: ClassVar[str] = "Dropout before the last layer"
    adaptive: ClassVar[str] = "DIA: reads or optimises the masks"
    reference: ClassVar[str] = "Wei et al., A framework for evaluating gradient leakage attacks, arXiv 2004.10397"
    order: ClassVar[int] = 70

    def __post_init__(self) -> None:
        if not 0 < self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected between 0 and 1")

    def model(self, target: Target, generator: Generator) -> Target:
        """The model with the dropout layer."""
        layer = Dropout(self.dropout, label="defence_dropout").eval()
        return spliced(target, last_linear(target), layer)

    def protocol(self, protocol: Protocol) -> Protocol:
        """Dropout is on while the client trains."""
        return replace(protocol, mode="train")

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """Half of the units."""
        return ("dropout=0.5",)
