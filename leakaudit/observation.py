"""What the attacker is given: the shared update and the declared knowledge, and nothing else.

An :class:`Observation` is the only way from the client's side to the attacker's. It holds no private sample:
`leakaudit.client.observe` makes one from a batch, and every attack takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from leakaudit.domains.base import Domain

Mode = Literal["eval", "train"]
ThreatModel = Literal["A", "B", "C", "D", "E"]
Channel = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""A differentiable stand-in for what a client does to its gradient before it shares it, by tensor name."""


@dataclass(frozen=True)
class Protocol:
    """How the client turns a batch into an update.

    Args:
        batch_size: Samples per update.
        mode: Whether the client's model is in ``eval`` or ``train`` mode (dropout, BatchNorm).
        algorithm: ``fedsgd``: the update is one gradient of the mean loss.
        shared_statistics: BatchNorm statistics that come with the update: ``batch``, mean and variance over the batch,
            or ``running``, the running statistics after the step.
    """

    batch_size: int
    mode: Mode = "eval"
    algorithm: Literal["fedsgd"] = "fedsgd"
    shared_statistics: Literal["none", "batch", "running"] = "none"


@dataclass(frozen=True, eq=False)
class Observation:
    """Everything the attacker sees.

    Args:
        update: Gradient of the mean loss per trainable tensor, by name, each shaped as its tensor.
        protocol: How the update was made; an honest-but-curious server sets it itself.
        domain: What a sample is: shape and normalisation of the model's inputs.
        threat_model: Letter A to E, see ARCHITECTURE.
        labels: Class indices (B,), when given or already inferred; ``None`` otherwise.
        label_source: Where ``labels`` came from.
        masks: Dropout masks by layer, only for the well-informed attacker that measures an upper bound.
        auxiliary: Public images (N, C, H, W) in 0..1 under threat model D.
        batch_statistics: Mean and biased variance (C,) over the batch of each BatchNorm layer's input, by layer name;
            known under threat model E, where the client shares them or what they follow from.
        start: Partial reconstruction (B, C, H, W) in normalised space that an earlier attack made from this same
            observation; optimisation attacks may start from it.
        channel: What a known defence does to a gradient; attacks compare their own gradient through it.
        one_bit: The channel keeps signs only: inputs far from the truth match as well as the truth does.
    """

    update: Mapping[str, Tensor]
    protocol: Protocol
    domain: Domain
    threat_model: ThreatModel = "B"
    labels: Tensor | None = None
    label_source: Literal["none", "given", "inferred"] = "none"
    masks: Mapping[str, Tensor] | None = field(default=None)
    auxiliary: Tensor | None = field(default=None)
    batch_statistics: Mapping[str, tuple[Tensor, Tensor]] | None = field(default=None)
    start: Tensor | None = field(default=None)
    channel: Channel | None = field(default=None)
    one_bit: bool = field(default=False)

    def shared(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What a client with these gradients would share, as far as the attacker can tell; differentiable."""
        seen = {name: gradients[name] for name in self.update}
        return seen if self.channel is None else self.channel(seen)

    @property
    def batch_size(self) -> int:
        """Number of samples behind the update."""
        return self.protocol.batch_size
