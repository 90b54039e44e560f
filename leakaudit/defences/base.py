"""The contract of every defence: what the client does, and what an attacker who knows it does about it.

A defence acts in one or more of three places, in this order: on the model, on the protocol, on the update. Each has a
counterpart on the other side, `Defence.adapt`: the same attack, told which defence is in use (Kerckhoffs' principle).
A defence without one is reported as *not evaluated*, since it has only been tried against attackers who ignore it.

Reference: Tramèr et al. 2020 (arXiv 2002.08347) on adaptive attacks; Balunović et al. 2022 (arXiv 2111.04706) for
gradient defences that fall to them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.observation import Chained, Channel, Observation
from leakaudit.protocols.base import Protocol
from leakaudit.target.target import Target

Update = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class ClientStep:
    """What the client has in hand when it defends its update. Never leaves the client's side.

    Args:
        target: The model that the client trains.
        inputs: Normalised inputs (B, C, H, W).
        labels: Class indices (B,).
        alone: The update of one sample by itself, by its position in the batch, under the dropout masks that it had.
    """

    target: Target
    inputs: Tensor
    labels: Tensor
    alone: Callable[[int], Mapping[str, Tensor]]

    def per_sample(self) -> list[Mapping[str, Tensor]]:
        """The update of each sample by itself."""
        return [self.alone(i) for i in range(len(self.inputs))]


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

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        changed = ",".join(
            f"{f.name}={_text(value)}"
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != f.default
        )
        return changed or self.name

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

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """The model and the observation as the attacker who knows of the defence uses them."""
        return target, observation


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def protected(update: Mapping[str, Tensor], step: ClientStep, defences: Sequence[Defence], seed: int) -> Update:
    """The update after all defences, in order; each draws from a generator of its own."""
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
