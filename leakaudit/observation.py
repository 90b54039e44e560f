"""What the attacker is given: the shared update and the declared knowledge, and nothing else.

An :class:`Observation` is the only way from the client's side to the attacker's. It holds no private sample:
`leakaudit.client.observe` makes one from a batch, and every attack takes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from leakaudit.protocols.base import Play, Protocol
from leakaudit.target.dropout import Steps
from leakaudit.target.target import Target

ThreatModel = Literal["A", "B", "C", "D", "E"]


@dataclass(frozen=True, eq=False)
class InputSpace:
    """The space the model's inputs live in; public, since it belongs to the training recipe.

    Args:
        shape: ``(C, H, W)`` of one sample as an image.
        mean: Per-channel mean in pixel units (pixels run from 0 to 1), length C.
        std: Per-channel standard deviation in pixel units, length C.

    A model input is ``x = (pixel - mean) / std``.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def _column(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1 (B, C, H, W) to model inputs of the same shape."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Model inputs (B, C, H, W) to pixels, clamped to 0..1."""
        return (inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)).clamp(0.0, 1.0)

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest model input per channel, each of shape (C, 1, 1)."""
        zero = torch.zeros((len(self.mean), 1, 1), dtype=like.dtype, device=like.device)
        return self.normalize(zero), self.normalize(zero + 1.0)


@dataclass(frozen=True, eq=False)
class TokenSpace(InputSpace):
    """The space of sequences of L token ids, as ``(B, 1, 1, L)`` whole numbers; there is nothing to normalise.

    Args:
        vocabulary: Number of ids; they run from 0 to ``vocabulary - 1``.
    """

    vocabulary: int = 1

    @classmethod
    def of(cls, length: int, vocabulary: int) -> TokenSpace:
        """The space of sequences of one length."""
        return cls((1, 1, length), (0.0,), (1.0,), vocabulary)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Token ids as they are."""
        return pixels

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Token ids as they are."""
        return inputs

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest id, each of shape (1, 1, 1)."""
        zero = torch.zeros((1, 1, 1), dtype=like.dtype, device=like.device)
        return zero, zero + (self.vocabulary - 1)


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
        space: Shape and normalisation of the model's inputs.
        threat_model: Letter A to E, see ARCHITECTURE.
        labels: Class indices (B,), when given or already inferred; ``None`` otherwise.
        label_source: Where ``labels`` came from.
        masks: Dropout masks by step and layer, only for the well-informed attacker that measures an upper bound.
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
    space: InputSpace
    threat_model: ThreatModel = "B"
    labels: Tensor | None = None
    label_source: Literal["none", "given", "inferred"] = "none"
    masks: Steps | None = field(default=None)
    auxiliary: Tensor | None = field(default=None)
    batch_statistics: Mapping[str, tuple[Tensor, Tensor]] | None = field(default=None)
    start: Tensor | None = field(default=None)
    channel: Channel | None = field(default=None)
    one_bit: bool = field(default=False)

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
    def batch_size(self) -> int:
        """Number of samples behind the update."""
        return self.protocol.batch_size
