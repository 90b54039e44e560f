"""What the attacker is given: the shared update and the declared knowledge, and nothing else.

An :class:`Observation` is the only way from the client's side to the attacker's. It holds no private sample:
`leakaudit.client.observe` makes one from a batch, and every attack takes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from leakaudit.domains.base import Domain
from leakaudit.matching.generator import OwnGenerator
from leakaudit.protocols.base import Play, Protocol
from leakaudit.target.dropout import Steps
from leakaudit.target.target import Target

ThreatModel = Literal["A", "B", "C", "D", "E"]
HANDED = "*"
"""Among the defences that an attack adapts to: all whose counterpart the observation has (channel, noise, rounding)."""


class Channel(ABC):
    """A differentiable stand-in for what a client does to its update before it shares it.

    A subclass is a frozen dataclass, so that it has a content: what an attack makes through it can be cached.
    """

    @abstractmethod
    def __call__(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Gradients by tensor name to what would be shared of them."""


@dataclass(frozen=True, eq=False)
class Chained(Channel):
    """One channel after another.

    Args:
        first: Acts on the gradient.
        then: Acts on what comes out.
    """

    first: Channel
    then: Channel

    def __call__(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Both, in order."""
        return self.then(self.first(gradients))


@dataclass(frozen=True, eq=False)
class Observation:
    """Everything the attacker sees.

    Args:
        update: In units of a gradient of the mean loss, per trainable tensor by name, each shaped as its tensor.
        protocol: How the update was made; an honest-but-curious server sets it itself.
        domain: What a sample is: shape and normalisation of the model's inputs.
        threat_model: Letter A to E, see `leakaudit.document.threat_models`.
        labels: (B, *label_shape) of the task, or the probabilities (1, K) of a soft label, when given or already
            inferred; ``None`` otherwise.
        label_source: Where ``labels`` came from.
        errors: Of labels that the update does not tell, the error at the outputs ∂ℓ/∂z (B, outputs) that it does tell.
        open_labels: Whether the labels are to be found beside the inputs; `labels` are where they begin.
        masks: Dropout masks by step and layer, only for the well-informed attacker that measures an upper bound.
        auxiliary: Samples (N, *shape) that the attacker learns from under threat model D, in the unit of the domain's
            values (images: pixels in 0..1).
        generator: The attacker's generator of similar samples under threat model D, the user's own.
        batch_statistics: Mean and biased variance (C,) over the batch of each BatchNorm layer's input, by layer name;
            known under threat model E, where the client shares them or what they follow from.
        start: Partial reconstruction (B, C, H, W) in normalised space that an earlier attack made from this same
            observation; optimisation attacks may start from it.
        channel: What a known defence does to a gradient; attacks compare their own gradient through it.
        one_bit: The channel keeps signs only: inputs far from the truth match as well as the truth does.
        noise: Standard deviation σ of the Gaussian noise that the client is known to add to every entry of its update.
        rounding: Step between neighbouring values by tensor, where the client is known to round its update.
        pruned: Whether the client is known to zero the small entries of its update.
        rescaled: Whether it is known to clip, so that the update, or each sample's share of it, may be scaled down.
        exchange: Standard deviation of what the rounding of exchanged weights leaves wrong in an entry of the
            update, by tensor, see `leakaudit.protocols.base.Protocol.rounding`; empty where a gradient was sent.
    """

    update: Mapping[str, Tensor]
    protocol: Protocol
    domain: Domain
    threat_model: ThreatModel = "B"
    labels: Tensor | None = None
    label_source: Literal["none", "given", "inferred"] = "none"
    errors: Tensor | None = None
    open_labels: bool = False
    masks: Steps | None = field(default=None)
    auxiliary: Tensor | None = field(default=None)
    generator: OwnGenerator | None = field(default=None)
    batch_statistics: Mapping[str, tuple[Tensor, Tensor]] | None = field(default=None)
    start: Tensor | None = field(default=None)
    channel: Channel | None = field(default=None)
    one_bit: bool = field(default=False)
    noise: float = 0.0
    rounding: Mapping[str, float] | None = None
    pruned: bool = False
    rescaled: bool = False
    exchange: Mapping[str, float] = field(default_factory=dict)

    def shared(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What a client with these gradients would share, as far as the attacker can tell; differentiable."""
        seen = {name: gradients[name] for name in self.update}
        return seen if self.channel is None else self.channel(seen)

    def regenerate(
        self, target: Target, play: Play, *, create_graph: bool = False, functional: bool = False
    ) -> Mapping[str, Tensor]:
        """What a client with this play would share: the only simulation of a client on the attacker's side.

        Args:
            target: The model, as the attacker evaluates it.
            play: A guess of what the client did.
            create_graph: Keep the graph, so that the result can be differentiated by the play.
            functional: Differentiate by ``torch.func``, which works under ``vmap``.
        """
        update = self.protocol.update(target, play, create_graph=create_graph, functional=functional)
        return self.shared(update)

    @property
    def plain(self) -> bool:
        """Whether the update is the gradient itself, as far as the attacker knows."""
        return self.channel is None and self.noise == 0 and not self.rounding

    @property
    def batch_size(self) -> int:
        """Number of samples behind the update."""
        return self.protocol.batch_size
