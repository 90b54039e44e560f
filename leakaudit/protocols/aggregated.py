r"""The mean of several clients' updates: what a server with secure aggregation sees (Bonawitz et al. 2017).

.. math:: \Delta = \sum_i w_i\, \Delta_i, \qquad u = \frac{\sum_i w_i c_i u_i}{\sum_i w_i c_i}

for clients that train locally on samples of their own (doi 10.1145/3133956.3133982 for the aggregation). Weights are
those of the strategy: equal, or by the number of samples. In units of a gradient u is again a weighted mean of
gradients, so what is linear in them survives: rows of an embedding that moved are the union over all clients, and the
row space of the first layer is spanned by all their samples. Which client a sample is from is not told.

Samples, orders and masks of a play are those of the clients, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.protocols.base import Play, Protocol, Update
from leakaudit.target.target import Target


@dataclass(frozen=True)
class Aggregated(Protocol):
    """Several clients, each as its own protocol says, and the weighted mean of what they send.

    Args:
        members: The clients' protocols.
        weights: Of each in the mean; they sum to 1.
    """

    members: tuple[Protocol, ...] = ()
    weights: tuple[float, ...] = field(default=())

    name: ClassVar[str] = "aggregated"

    def __post_init__(self) -> None:
        """Of another number of samples than the clients', it is a single client's; a changed mode is that of all."""
        members = self.members
        if sum(member.batch_size for member in members) != self.batch_size:
            members = (replace(members[0], batch_size=self.batch_size),)
            object.__setattr__(self, "weights", (1.0,))
        alike = (replace(m, mode=self.mode, shared_statistics=self.shared_statistics) for m in members)
        object.__setattr__(self, "members", tuple(alike))

    @classmethod
    def of(cls, members: Sequence[Protocol], weights: Sequence[float]) -> Aggregated:
        """Of clients with weights of any sum."""
        first, whole = members[0], sum(weights)
        size = sum(member.batch_size for member in members)
        shares = tuple(weight / whole for weight in weights)
        return cls(size, first.mode, first.shared_statistics, members=tuple(members), weights=shares)

    @property
    def title(self) -> str:  # type: ignore[override]
        """The clients' own, and how many."""
        return f"{self.members[0].title}, summed over {len(self.members)} clients"

    @property
    def step_sizes(self) -> tuple[int, ...]:
        """Of all clients, one after the other."""
        return tuple(size for member in self.members for size in member.step_sizes)

    @property
    def steps(self) -> int:
        """Of one client: how far its weights went from those that all began with."""
        return max(member.steps for member in self.members)

    @property
    def one_gradient(self) -> bool:
        """A mean of single gradients is one, unless a client drew masks of its own or counts by other than its size."""
        fair = all(
            math.isclose(share * self.batch_size, member.batch_size)
            for member, share in zip(self.members, self.shares, strict=True)
        )
        return super().one_gradient and self.mode == "eval" and fair

    @property
    def bent_by(self) -> str:
        """That of the first client that has one."""
        return next((member.bent_by for member in self.members if member.bent_by), "")

    @property
    def shuffled(self) -> bool:
        """Whether a client draws an order, or nobody else knows which sample is whose and it matters."""
        return any(member.shuffled for member in self.members) or (len(self.members) > 1 and not self.one_gradient)

    @property
    def withheld(self) -> tuple[str, ...]:
        """What is not known of a client."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.withheld))

    def only(self, samples: int) -> Protocol:
        """The first client alone."""
        return self.members[0].only(samples)

    def of_samples(self, samples: int) -> Protocol:
        """The first client alone."""
        return self.members[0].of_samples(samples)

    def rounding(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, float]:
        """Of every client's weights, by its share."""
        own = [member.rounding(update, before) for member in self.members]
        names = {name for found in own for name in found}
        return {
            name: math.hypot(*(share * found.get(name, 0.0) for share, found in zip(self.shares, own, strict=True)))
            for name in names
        }

    @property
    def linear(self) -> bool:
        """Whether the clients' updates are."""
        return all(member.linear for member in self.members)

    @property
    def passes(self) -> int:
        """Of a client over its own samples."""
        return max(member.passes for member in self.members)

    @property
    def step_weights(self) -> tuple[float, ...]:
        """By how much each client's steps move the mean."""
        pairs = zip(self.members, self.weights, strict=True)
        return tuple(w * c for member, w in pairs for c in member.step_weights)

    def sharing(self, kind: str) -> Aggregated:
        """The clients send differences or weights; their mean is either."""
        return replace(self, members=tuple(member.sharing(kind) for member in self.members))

    def privately(self, privacy: Any) -> Aggregated:
        """With this in every step of every client."""
        return replace(self, members=tuple(member.privately(privacy) for member in self.members))

    def draws(self, generator: Generator) -> Mapping[str, Tensor]:
        """What each client draws, under its number."""
        drawn = (member.draws(generator) for member in self.members)
        return {f"{number}/{name}": t for number, own in enumerate(drawn) for name, t in own.items()}

    def order(self, generator: Generator, samples: int) -> Tensor | None:
        """Each client's order of its own samples, side by side, (epochs, samples)."""
        drawn = [member.order(generator, member.batch_size) for member in self.members]
        if all(order is None for order in drawn):
            return None
        rows, offset, parts = max(len(order) for order in drawn if order is not None), 0, []
        for member, order in zip(self.members, drawn, strict=True):
            own = torch.arange(member.batch_size).expand(rows, -1) if order is None else order
            parts.append(own + offset)
            offset += member.batch_size
        return torch.cat(parts, dim=1)

    def parts(self, sizes: Sequence[int]) -> list[tuple[float, Protocol]]:
        """The clients themselves, with their weights."""
        return list(zip(self.weights, self.members, strict=True))

    def plays(self, play: Play, sizes: Sequence[int] = ()) -> list[Play]:
        """The play of every client."""
        found, sample, step = [], 0, 0
        for number, member in enumerate(self.members):
            size, steps = member.batch_size, member.steps
            own = slice(sample, sample + size)
            mine = {n.partition("/")[2]: t for n, t in play.unknowns.items() if n.partition("/")[0] == str(number)}
            one = replace(
                play,
                inputs=play.inputs[own],
                labels=play.labels[own],
                order=None if play.order is None else play.order[:, own] - sample,
                masks=tuple(play.masks[step : step + steps]),
                unknowns=mine,
                errors=None if play.errors is None else play.errors[own],
            )
            found.append(one)
            sample, step = sample + size, step + steps
        return found

    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        """The mean over the clients, in units of a gradient."""
        total: dict[str, Tensor] = {}
        for member, own, share in zip(self.members, self.plays(play), self.shares, strict=True):
            how: dict[str, Any] = {"create_graph": create_graph, "functional": functional}
            found = member.update(target, own, parameters=parameters, **how)
            total = {name: share * g + total.get(name, 0.0) for name, g in found.items()}
        return total

    @property
    def shares(self) -> tuple[float, ...]:
        """Of every client's update in the mean, in units of a gradient; they sum to 1."""
        far = [w * sum(member.step_weights) for member, w in zip(self.members, self.weights, strict=True)]
        return tuple(each / sum(far) for each in far)

    def moved(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """The mean of the clients' differences; ``None`` where they share gradients."""
        none = {name: torch.zeros_like(tensor) for name, tensor in update.items()}
        drifts = [member.moved(none, before) for member in self.members]
        if any(drift is None for drift in drifts):
            return None
        far = sum(self.step_weights)
        found = {name: -far * tensor for name, tensor in update.items()}
        for drift, weight in zip(drifts, self.weights, strict=True):
            found = {name: tensor + weight * (drift or {})[name] for name, tensor in found.items()}
        return found

    def learnt(self, moved: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """The inverse of :meth:`moved`; a mean is in no float32 weights, so nothing is rounded."""
        drift = self.moved({name: torch.zeros_like(tensor) for name, tensor in moved.items()}, before)
        if drift is None:
            return moved
        far = sum(self.step_weights)
        return {name: (drift[name] - tensor) / far for name, tensor in moved.items()}

    def from_shared(self, shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """The mean of weights, of differences or of gradients that was sent, as one client of all samples sends it."""
        one = self.members[0].from_shared(shared, before)
        sent = self.members[0].moved(one, before)
        return one if sent is None else self.learnt(sent, before)

    def alone(self, target: Target, play: Play, position: int, repeats: int = 1) -> Update:
        """The update of one sample, as the client that has it would make it of that sample alone."""
        whole = Play(play.inputs, play.labels)
        return self.members[0].alone(target, whole, position, repeats)

    def assumption(self, shared: str = "undefended", made: str = "computed") -> str:
        """How each client makes its update, and what the server sees of them."""
        equal = len(set(self.weights)) == 1
        how = "the mean" if equal else "the mean, weighted by their numbers of samples,"
        own = self.members[0].assumption(shared, made)
        return f"The server sees {how} of {len(self.members)} clients' updates, each with samples of its own. {own}"

    def facts(self) -> dict[str, Any]:
        """As of one client, with how many there are and what each weighs."""
        own = {n: v for n, v in self.members[0].settings.items() if n not in ("samples", "local_steps")}
        return {
            **super().facts(),
            **own,
            "client": self.members[0].name,
            "clients": len(self.members),
            "samples_of_clients": [member.batch_size for member in self.members],
            "weights_of_clients": list(self.weights),
        }
