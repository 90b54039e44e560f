"""The contract of every protocol: how a Play becomes an update. It is *the* forward model of client and attacker.

A :class:`Play` is what a client did with a batch, or an attacker's guess of it. A :class:`Protocol` makes the update of
it, in units of a gradient of the mean loss: one gradient for FedSGD, :math:`(\\theta_0 - \\theta_K)/\\eta` or alike
for K local steps. No other code stands for what a client does; attackers reach it by
`leakaudit.observation.Observation.regenerate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from leakaudit.errors import AuditError, UpdateError
from leakaudit.target.dropout import Masks, Steps, drawn_shapes
from leakaudit.target.target import SharedStatistics, Target

Mode = Literal["eval", "train"]
Update = Mapping[str, Tensor]
"""A tensor per trainable tensor, by name, each of its shape, in units of a gradient of the mean loss."""


@dataclass(frozen=True, eq=False)
class Play:
    """What a client did with a batch, or a guess of it.

    Args:
        inputs: (B, C, H, W) in the model's normalised space, or token ids (B, 1, 1, L).
        labels: (B, *label_shape) of the task, or class probabilities (B, K) of soft labels, or while they are being
            optimised.
        order: Positions of the samples in the order of their visits, where the protocol has one: (epochs, B).
        masks: Dropout keep masks of every local step, by layer; empty where nothing is injected, and then layers do as
            their own mode says.
        unknowns: What else a protocol asks a guess for, by the names that it gives them.
        errors: Of one gradient, the error at the outputs ∂ℓ/∂z (B, outputs) of each sample's own loss, where that is
            known and stands for the labels: they are whatever makes these errors.
    """

    inputs: Tensor
    labels: Tensor
    order: Tensor | None = None
    masks: Steps = ()
    unknowns: Mapping[str, Tensor] = field(default_factory=dict)
    errors: Tensor | None = None

    def masks_of(self, step: int) -> Masks:
        """The masks of one step by layer; none where none are given."""
        return self.masks[step] if step < len(self.masks) else {}

    def of(self, positions: Sequence[int]) -> Play:
        """The play of some of the samples, each with the rows of the masks that it had.

        Raises:
            AuditError: The play has an order, or a mask that has no rows per sample.
        """
        chosen = list(positions)
        if self.order is not None:
            raise AuditError("a play with an order of visits cannot be taken apart by samples")
        masks = tuple({name: self._rows(name, mask, chosen) for name, mask in step.items()} for step in self.masks)
        errors = None if self.errors is None else self.errors[chosen]
        return Play(self.inputs[chosen], self.labels[chosen], masks=masks, errors=errors)

    def _rows(self, name: str, mask: Tensor, chosen: list[int]) -> Tensor:
        """A mask's rows of some samples, several of each where heads or places are folded into the batch axis."""
        size = len(self.inputs)
        if len(mask) == 1:
            return mask
        if len(mask) % size:
            raise AuditError(
                f"the dropout mask of {name} has {len(mask)} rows for {size} samples: none belongs to one sample"
            )
        return mask.reshape(size, len(mask) // size, *mask.shape[1:])[chosen].flatten(0, 1)


@dataclass(frozen=True)
class Protocol(ABC):
    """How a client turns a batch into an update. A subclass is a frozen dataclass whose fields are its settings.

    Args:
        batch_size: Samples behind one update.
        mode: Whether the client's model is in ``eval`` or ``train`` mode (dropout, BatchNorm).
        shared_statistics: BatchNorm statistics that come with the update: ``batch``, mean and variance over the batch,
            or ``running``, the running statistics after the last step.
    """

    batch_size: int
    mode: Mode = "eval"
    shared_statistics: SharedStatistics = "none"

    name: ClassVar[str]
    """For documents, such as ``fedsgd``."""
    title: ClassVar[str]
    """For people: the name and what it shares."""

    @property
    @abstractmethod
    def step_sizes(self) -> tuple[int, ...]:
        """Samples of every local step, in order; its length is the number of steps."""

    @property
    def steps(self) -> int:
        """Local steps behind one update."""
        return len(self.step_sizes)

    @property
    def linear(self) -> bool:
        """Whether the update is a weighted mean of the steps' gradients: what spans and ratios of them need."""
        return True

    @property
    def one_gradient(self) -> bool:
        """Whether the update is a single gradient, whatever it is called: all algebra of one applies."""
        return self.linear and self.steps == 1

    @property
    def bent_by(self) -> str:
        """The optimizer behind which the update is no weighted mean of gradients, by name; "" where it is one."""
        return "" if self.linear else "the client's optimizer"

    @property
    def shuffled(self) -> bool:
        """Whether the update depends on an order of the samples, which the client draws and nobody else knows."""
        return False

    @property
    def withheld(self) -> tuple[str, ...]:
        """Settings of the local training that the server does not know, by field; without them no step is replayed."""
        return ()

    @property
    def unrepeatable(self) -> str:
        """Why the update cannot be regenerated from samples, however exact they are; "" where it can."""
        if self.withheld:
            return not_known(self.withheld)
        return "the order in which the client visited its samples is unknown" if self.shuffled else ""

    def only(self, samples: int) -> Protocol:
        """The same client with so many samples, all of them in every step."""
        return replace(self, batch_size=samples)

    @abstractmethod
    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        """The update that a client with this play makes, undefended.

        Args:
            target: The model in the mode of the protocol, with the weights before the first step.
            play: Samples, and what else the client decided or drew.
            create_graph: Keep the graph, so that the update can be differentiated by the play.
            parameters: Trainable tensors before the first step in place of the model's own.
            functional: Differentiate by ``torch.func``, which works under ``vmap`` and ``make_fx``.

        Returns:
            A tensor per trainable tensor (or entry of `parameters`), in units of a gradient of the mean loss; with a
            graph only where one was asked for.
        """

    @abstractmethod
    def from_shared(self, shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """What a client sent, in the units of :meth:`update`.

        Args:
            shared: As it was sent; tensors that the client does not share are missing.
            before: The trainable tensors that the client started from, by name.

        Raises:
            UpdateError: A tensor does not belong to the model.
        """

    def moved(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """The difference of weights behind an update, after minus before; ``None`` where a gradient was sent.

        Args:
            update: In the units of :meth:`update`.
            before: The trainable tensors before the first step, by name.
        """
        return None

    def rounding(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, float]:
        """What is wrong with an update that was exchanged as weights, which have a precision of their own.

        Args:
            update: In the units of :meth:`update`.
            before: The trainable tensors before the first step, by name.

        Returns:
            Standard deviation of the rounding of an entry, by tensor, in units of the update; empty where a gradient
            was sent.
        """
        return {}

    def learnt(self, moved: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """The inverse of :meth:`moved`: what a difference of weights is in the units of :meth:`update`.

        Args:
            moved: Weights after minus weights before; or a gradient, where that is what is sent.
            before: As of :meth:`moved`.
        """
        return moved

    @property
    def step_weights(self) -> Sequence[float]:
        """By how much each step's gradient moves the weights; 1 where the gradient itself is shared."""
        return (1.0,) * self.steps

    @property
    def passes(self) -> int:
        """How often each sample takes part in one update, at most."""
        return 1

    def sharing(self, kind: str) -> Protocol:
        """The protocol as a recorded update of this kind shows it: ``weights``, ``delta`` or ``gradient``."""
        return self

    def privately(self, privacy: Any) -> Protocol:
        """With this done in every local step (:class:`leakaudit.protocols.private.StepPrivacy`), or nothing.

        A protocol that shares a gradient has no such steps, and stays as it is.
        """
        return self

    def parts(self, sizes: Sequence[int]) -> list[tuple[float, Protocol]]:
        """Clients of so many samples each whose updates add up to this one, with the weight of each in the mean."""
        whole = sum(sizes)
        return [(size / whole, replace(self, batch_size=size)) for size in sizes]

    def plays(self, play: Play, sizes: Sequence[int]) -> list[Play]:
        """The play of each of these clients."""
        begins = [sum(sizes[:number]) for number in range(len(sizes))]
        return [play.of(range(begin, begin + size)) for begin, size in zip(begins, sizes, strict=True)]

    def draws(self, generator: Generator) -> Mapping[str, Tensor]:
        """What else a client draws once, for :attr:`Play.unknowns`, beside order and masks."""
        return {}

    @abstractmethod
    def assumption(self, shared: str = "undefended", made: str = "computed") -> str:
        """The verdict's sentence on how the update is taken to be made.

        Args:
            shared: What was done to it before it was shared.
            made: Where it comes from.
        """

    @property
    def beside(self) -> tuple[str, ...]:
        """What is computed from the samples and shared with the update, in words; no defence adds noise to it.

        A protocol that shares more (losses, control variates, how many samples were drawn) names that too: a privacy
        guarantee is withheld wherever this is not empty.
        """
        return () if self.shared_statistics == "none" else (f"BatchNorm statistics ({self.shared_statistics})",)

    def order(self, generator: Generator, samples: int) -> Tensor | None:
        """Draw the order in which a client visits so many samples; ``None`` where the update does not depend on it."""
        return None

    def of_samples(self, samples: int) -> Protocol:
        """The same for so many samples, for a control; with an order where this has one and they can have one."""
        return replace(self, batch_size=samples)

    def taking(self, steps: int) -> Protocol:
        """The same in so many local steps, or fewer where they do not come out even; itself if it cannot be varied."""
        return self

    def mask_shapes(self, target: Target) -> tuple[Mapping[str, tuple[int, ...]], ...]:
        """Shapes of the keep masks that a client draws, by step and layer in order of execution; eval mode has none."""
        if self.mode != "train":
            return tuple({} for _ in self.step_sizes)
        known = {size: self._shapes(target, size) for size in set(self.step_sizes)}
        return tuple(known[size] for size in self.step_sizes)

    def _shapes(self, target: Target, size: int) -> Mapping[str, tuple[int, ...]]:
        like = next(iter(target.parameters.values()))
        zeros = torch.zeros((size, *target.image_shape)).to(like.device, like.dtype)
        return drawn_shapes(target.module, lambda: target.logits(zeros))

    def alone(self, target: Target, play: Play, position: int, repeats: int = 1) -> Update:
        """The update of one sample of a play by itself: how much it counts.

        It is taken under the masks that the sample had. Of several local steps only the protocol knows which row of a
        mask and which visit belong to whom: a subclass may say, and without that neither masks nor order are kept.

        Args:
            target: As of :meth:`update`.
            play: Of the whole batch.
            position: Of the sample.
            repeats: How often the sample stands in the batch, for a model that takes no single samples.
        """
        whole = play if self.steps == 1 else Play(play.inputs, play.labels)
        return self.only(repeats).update(target, whole.of([position] * repeats))

    def facts(self) -> dict[str, Any]:
        """The document's section on the protocol, by its keys; names, numbers and text only."""
        return {
            "algorithm": self.name,
            "title": self.title,
            "steps": self.steps,
            "mode": self.mode,
            "batch_size": self.batch_size,
            "shared_statistics": self.shared_statistics,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The facts that only this protocol has, such as a learning rate."""
        common = Protocol.facts(self)
        return {name: value for name, value in self.facts().items() if name not in common}


def not_known(settings: Sequence[str]) -> str:
    """That these fields of a client's training are not known, in words."""
    words = [name.replace("_", " ") for name in settings]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"{listed} of the client {'are' if len(words) > 1 or words[0].endswith('s') else 'is'} not known"


def belonging(shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shared tensors on the device and in the type of the model's own, which they belong to by name and shape.

    Raises:
        UpdateError: One belongs to none.
    """
    for name, tensor in shared.items():
        if name not in before:
            raise UpdateError(f"the update has {name!r}, which is no trainable tensor of the model")
        if tensor.shape != before[name].shape:
            got, expected = tuple(tensor.shape), tuple(before[name].shape)
            raise UpdateError(
                f"{name} of the update has shape {got}, expected {expected}", "send it as the model has it"
            )
    return {name: tensor.detach().to(before[name]) for name, tensor in shared.items()}
