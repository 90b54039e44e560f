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
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.obstacles import Circumstances
from leakaudit.defences.units import as_read, as_sent, moves, read, sent
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
        protocol: How the client makes an update; ``None`` for a gradient.
        members: The clients whose updates are summed to this one, each with its weight in the mean, its own update and
            its own step; none where one client is all there is.
    """

    target: Target
    inputs: Tensor
    labels: Tensor
    alone: Callable[[int], Mapping[str, Tensor]]
    replayed: bool = True
    protocol: Protocol | None = None
    members: Callable[[], Sequence[Member]] = tuple

    @property
    def before(self) -> Mapping[str, Tensor]:
        """The trainable tensors that the client started from, by name."""
        return {name: tensor.detach() for name, tensor in self.target.parameters.items()}

    @property
    def moves(self) -> bool:
        """Whether the client sends weights, or a difference of them."""
        return self.protocol is not None and moves(self.protocol)

    def sent(self, update: Mapping[str, Tensor]) -> Update:
        """An update in units of a gradient as the client sends it: a difference of weights after local steps."""
        return dict(update) if self.protocol is None else sent(self.protocol, update, self.before)

    def read(self, shared: Mapping[str, Tensor]) -> Update:
        """The inverse of :meth:`sent`."""
        return dict(shared) if self.protocol is None else read(self.protocol, shared, self.before)

    def per_sample(self) -> Iterator[Mapping[str, Tensor]]:
        """The update of each sample by itself, one after the other."""
        return (self.alone(i) for i in range(len(self.inputs)))


@dataclass(frozen=True, eq=False)
class Member:
    """One of several clients behind an update.

    Args:
        weight: Its share in the mean, in 0..1.
        update: Its undefended update, in units of a gradient.
        step: What it has in hand.
    """

    weight: float
    update: Update
    step: ClientStep


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
    signs: ClassVar[bool] = False
    """Whether it shares signs, with one magnitude per tensor."""
    selects: ClassVar[bool] = False
    """Whether `protect` leaves out whole tensors and changes none."""
    units: ClassVar[str] = ""
    """What the numbers of its settings are measured in, where their names do not say it."""
    remains: ClassVar[str] = ""
    """What stays exact through it, in words, where that is worth saying."""
    like: ClassVar[str] = ""
    """Name of another defence whose counterpart serves here too."""
    summed: ClassVar[bool] = False
    """Whether its counterpart survives a sum over clients that each have it: a known level of noise does."""
    gathers: ClassVar[bool] = False
    """Whether it makes one update of those of several clients; what stands before it acts on each of them."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        changed = ",".join(
            f"{f.name.replace('_', '-')}={as_text(value)}"
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

    def gathered(self, before: Sequence[Defence], *, last: bool = True) -> Defence:
        """The last of some defences before this one as seen on the sum that it makes; see :attr:`gathers`.

        Args:
            before: These, in order.
            last: Whether no other defence before this one follows them.
        """
        return before[-1]

    @property
    def members(self) -> tuple[int, ...]:
        """Samples of every client that it sums over, 0 for as many as another has; none where there is one client."""
        return ()

    def quiet(self, update: Update, step: ClientStep) -> tuple[Update, float] | None:
        """What is shared before the noise, and the noise's standard deviation; ``None`` where that cannot be told
        apart.

        Args:
            update: As it is sent.
            step: What the client has in hand.
        """
        return None

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
        """What the client shares instead of `update`, which is as it is sent: a difference of weights after local
        steps."""
        return update

    def channel(self, observation: Observation) -> Channel | None:
        """What it does to an update, differentiably, as an attacker can tell from it; ``None``: nothing.

        Args:
            observation: Its update is as it was sent, and so are the noise and whatever else has a unit.
        """
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
        return bool({self.name, self.like} & set(adapts)) or (HANDED in adapts and self.hands_over)

    def check(self, raw: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> list[Check]:
        """The properties that it gives every update, measured on a shared one.

        Args:
            raw: The undefended update, as it is sent.
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

    def guaranteed(self, protocol: Protocol, prior: float) -> Guarantee | None:
        """As :meth:`guarantee`, for clients of a protocol, whose update may be of several steps.

        Args:
            protocol: How the update is made, defences included.
            prior: See there.
        """
        return self.guarantee(protocol.batch_size, prior)

    def unbounded(self, entries: int) -> str:
        """Why there is no guarantee, for an update of so many entries; empty for the general reason."""
        return ""

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """What deployed code does wrong with it, as far as settings and a shared update tell.

        Args:
            practice: What is known of the client that has it, or believes to.
        """
        return iter(())

    def unchecked(self, step: ClientStep) -> str:
        """Why an update of such a client cannot be held against it; empty where it can."""
        return ""

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


def as_text(value: Any) -> str:
    """A setting's value as it is written in a defence's text."""
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
        if acts(defence) and not defence.selects:
            acting = acting or str(defence)


def protected(update: Mapping[str, Tensor], step: ClientStep, defences: Sequence[Defence], seed: int) -> Update:
    """The update after all defences, in order; each draws from a generator of its own.

    Raises:
        UsageError: See :func:`refuse_order`.
    """
    refuse_order(defences)
    if not any(map(acts, defences)):
        return dict(update)
    shared = step.sent(update)
    for number, defence in enumerate(defences):
        generator = torch.Generator("cpu").manual_seed(seed + number)
        shared = defence.protect(shared, step, generator)
    return step.read(shared)


def arranged(defences: Sequence[Defence]) -> tuple[Defence, ...]:
    """Defences as they are seen on the update that the server gets: those before a sum act on every client's own.

    Raises:
        UsageError: Several of them sum over clients.
    """
    sums = [number for number, defence in enumerate(defences) if defence.gathers]
    if len(sums) > 1:
        raise UsageError(
            f"{defences[sums[1]]} was given beside {defences[sums[0]]}", "say once how many clients there are"
        )
    if not sums:
        return tuple(defences)
    gathering, found = defences[sums[0]], list(defences)
    places = [number for number, d in enumerate(defences[: sums[0]]) if acts(d) and not d.selects]
    for number in places:  # the last of them applies the whole chain, the others only say what they are
        chain = [defences[place] for place in places if place <= number]
        found[number] = gathering.gathered(chain, last=number == places[-1])
    return tuple(found)


def acts(defence: Defence) -> bool:
    """Whether a defence changes the update."""
    return type(defence).protect is not Defence.protect


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
        target, observation = _adapted(defence, target, observation)
    return target, observation


def _adapted(defence: Defence, target: Target, observation: Observation) -> tuple[Target, Observation]:
    """By one defence, which sees what was sent where it acted on that."""
    if not acts(defence) or not moves(observation.protocol):
        return defence.adapt(target, observation)
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    asked = as_sent(observation, before)
    model, seen = defence.adapt(target, asked)
    return model, as_read(seen, asked, observation, before)


def through(observation: Observation, channel: Channel) -> Observation:
    """The observation with one more differentiable stand-in for what the client does to its gradient.

    Defences are undone last to first, so the new channel comes before those already there.
    """
    after = observation.channel
    return replace(observation, channel=channel if after is None else Chained(channel, after))
