"""The contract of every defence: what the client does, and what an attacker who knows it does about it.

A defence acts in one or more of three places, in this order: on the model, on the protocol, on the update. Each has a
counterpart on the other side, `Defence.adapt`: the same attack, told which defence is in use (Kerckhoffs' principle).
What the attacker learns from knowing it stands in the observation: a channel that gradients are compared through, the
level of the noise, the step of the rounding. An attack declares which defences it works through (`Attack.adapts`), and
a defence is reported as *evaluated* only if such an attack ran (`Defence.known_to`).

One defence is one file and one entry point of the group ``leakaudit.defences`` for each key that its text may begin
with. Whatever is particular to it is a method of it: what its updates look like (`Defence.check`), what it guarantees
(`Defence.guarantee`, `Defence.error_bound`), which settings are worth trying (`Defence.grid`).

Reference: Tramèr et al. 2020 (arXiv 2002.08347) on adaptive attacks; Balunović et al. 2022 (arXiv 2111.04706) for
gradient defences that fall to them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.evidence import Check, ErrorBound, Guarantee
from leakaudit.defences.obstacles import Circumstances
from leakaudit.errors import UsageError
from leakaudit.observation import HANDED, Chained, Channel, Observation
from leakaudit.protocols.base import Play, Protocol
from leakaudit.target.target import Target

Update = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class ClientStep:
    """What the client has in hand when it defends its update. Never leaves the client's side.

    Args:
        target: The model that the client trains.
        inputs: Normalised inputs (B, C, H, W).
        labels: Class indices (B,), or class probabilities (B, K).
        alone: The update of one sample by itself, by its position in the batch, under all that the client drew for it.
        replayed: Whether what the client drew (dropout masks) is known, so that its update can be computed once more.
    """

    target: Target
    inputs: Tensor
    labels: Tensor
    alone: Callable[[int], Mapping[str, Tensor]]
    replayed: bool = True

    def per_sample(self) -> Iterator[Mapping[str, Tensor]]:
        """The update of each sample by itself, one after the other."""
        return (self.alone(i) for i in range(len(self.inputs)))


@dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """Base class of all defences. A subclass is a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]
    """The name on the command line."""
    title: ClassVar[str]
    """The name in the report."""
    adaptive: ClassVar[str] = ""
    """What the attacker who knows of it does; empty: nothing, so the defence is not evaluated."""
    reference: ClassVar[str] = ""
    """Paper that proposes it."""
    order: ClassVar[int] = 100
    """Place in lists and in the default grid; ours come first, in the order of the manual."""
    pure: ClassVar[bool] = False
    """Whether `protect` uses nothing but the update and the generator: what it makes is post-processing."""
    selects: ClassVar[bool] = False
    """Whether `protect` leaves out whole tensors and changes none."""
    units: ClassVar[str] = ""
    """What the numbers of its settings are measured in, where their names do not say it."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        changed = ",".join(
            f"{f.name.replace('_', '-')}={_text(value)}"
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != f.default
        )
        return changed or self.name

    @property
    def acts_on_samples(self) -> bool:
        """Whether it acts on the gradients of single samples, which have to be apart, and discards what came before."""
        return False

    @property
    def post_processing(self) -> bool:
        """Whether `protect` makes what it shares of the update alone, so that an earlier guarantee still holds."""
        return self.pure or type(self).protect is Defence.protect

    def model(self, target: Target, generator: Generator) -> Target:
        """The model that clients train under this defence; the given one is left as it is."""
        return target

    def protocol(self, protocol: Protocol) -> Protocol:
        """The protocol under this defence."""
        return protocol

    def drawing(self, target: Target, generator: Generator) -> AbstractContextManager[None]:
        """While the client computes its gradient: what it draws within the model comes from the generator."""
        return nullcontext()

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """What the client shares instead of `update`."""
        return update

    def channel(self, observation: Observation) -> Channel | None:
        """What it does to a gradient, differentiably, as an attacker can tell from its update; ``None``: nothing."""
        return None

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """The model and the observation as the attacker who knows of the defence uses them."""
        channel = self.channel(observation)
        return target, observation if channel is None else through(observation, channel)

    @classmethod
    def has_counterpart(cls) -> bool:
        """Whether defences of this kind put a counterpart of theirs into the observation."""
        return cls.adapt is not Defence.adapt or cls.channel is not Defence.channel

    @property
    def hands_over(self) -> bool:
        """Whether its counterpart is in the observation, so that every attack that compares gradients has it."""
        return self.has_counterpart()

    def known_to(self, adapts: Collection[str]) -> bool:
        """Whether an attack that declares `adapts` works through it.

        Args:
            adapts: Names of defences; `HANDED` among them stands for all that hand over their counterpart.
        """
        return self.name in adapts or (HANDED in adapts and self.hands_over)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The properties that it gives every update, measured on a shared one.

        Args:
            raw: The undefended update.
            shared: What the client shares, said to be defended by this and nothing else.
        """
        return []

    def check_step(self, step: ClientStep, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """As :meth:`check`, by one who has the samples in hand; without a need for them the same.

        Args:
            step: The client's samples, and the gradients of each.
            raw: The undefended update.
            shared: What the client shares.
        """
        return self.check(raw, shared)

    def guarantee(self, batch_size: int, prior: float) -> Guarantee | None:
        """What it guarantees against whatever attack, or ``None``.

        Args:
            batch_size: Samples behind one update.
            prior: κ in 0..1, the probability of guessing a sample before any update.
        """
        return None

    def obstacle(self, circumstances: Circumstances) -> str:
        """Why its guarantee does not hold under these circumstances, beside what `obstacles` says of all; or empty."""
        return ""

    def error_bound(self, target: Target, observation: Observation, play: Play, generator: Generator) -> ErrorBound:
        """The error that it leaves to every unbiased attacker from one update, by Fisher information.

        Args:
            target: The model that the client trains.
            observation: The undefended update.
            play: What the client did: normalised inputs (B, C, H, W) and labels (B,).
            generator: CPU generator of random probes.
        """
        return ErrorBound(None, "only for a single defence of clipping and noise")

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """The settings that ``leakaudit defend`` tries where the user names none, as text.

        Args:
            batch_size: Samples per update without a defence.
            samples: In the batch file: no more than these can stand behind an update.
        """
        return ()


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def refuse_order(defences: Sequence[Defence]) -> None:
    """Refuse what acts on the gradients of samples behind what has already acted on their mean: that would be lost.

    Raises:
        UsageError: So it is.
    """
    acting = ""
    for defence in defences:
        if defence.acts_on_samples and acting:
            raise UsageError(
                f"--defence {defence} acts on the gradient of every sample, after {acting} has acted on their mean",
                f"name it before {acting}, or act on the mean (per=update)",
            )
        if type(defence).protect is not Defence.protect and not defence.selects:
            acting = acting or str(defence)


def protected(update: Mapping[str, Tensor], step: ClientStep, defences: Sequence[Defence], seed: int) -> Update:
    """The update after all defences, in order; each draws from a generator of its own.

    Raises:
        UsageError: See :func:`refuse_order`.
    """
    refuse_order(defences)
    shared = dict(update)
    for number, defence in enumerate(defences):
        generator = torch.Generator("cpu").manual_seed(seed + number)
        shared = defence.protect(shared, step, generator)
    return shared


def defended_model(target: Target, defences: Sequence[Defence], seed: int) -> Target:
    """The model that clients train under these defences."""
    for number, defence in enumerate(defences):
        target = defence.model(target, torch.Generator("cpu").manual_seed(seed + number))
    return target


def defended_protocol(protocol: Protocol, defences: Sequence[Defence]) -> Protocol:
    """The protocol under these defences."""
    for defence in defences:
        protocol = defence.protocol(protocol)
    return protocol


def adapted(target: Target, observation: Observation, defences: Sequence[Defence]) -> tuple[Target, Observation]:
    """What an attacker who knows all defences works with: undone as far as possible, the last one first."""
    for defence in reversed(defences):
        target, observation = defence.adapt(target, observation)
    return target, observation


def through(observation: Observation, channel: Channel) -> Observation:
    """The observation with one more differentiable stand-in for what the client does to its gradient.

    Defences are undone last to first, so the new channel comes before those already there.
    """
    after = observation.channel
    return replace(observation, channel=channel if after is None else Chained(channel, after))
