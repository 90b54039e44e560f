r"""FedAvg: K local steps on a client's own data, then its weights are shared (McMahan et al. 2017, arXiv 1602.05629).

With SGD, momentum and coupled weight decay included, what was learnt is linear in the gradients of the steps,

.. math:: \theta_K = a\,\theta_0 - \sum_k c_k\, g_k, \qquad u = \frac{a\,\theta_0 - \theta_K}{\sum_k c_k},

so the update here, u, is a weighted mean of gradients: what is known of the decay is taken off, and one step gives the
gradient itself. Adam, AdamW and RMSprop are not linear: there :math:`u = (a\,\theta_0 - \theta_K)/(\eta K)`, with
:math:`a = (1 - \eta\lambda)^K` of AdamW's decoupled decay and 1 otherwise.

The weights go through float32 as they do at the client, so u carries a rounding of about :math:`ulp(\theta)/\sum c_k`
in every entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from leakaudit.document.counting import count
from leakaudit.errors import UsageError
from leakaudit.protocols.base import Play, Protocol, Update, belonging, not_known
from leakaudit.protocols.gradients import gradient
from leakaudit.protocols.names import WITHHELD
from leakaudit.protocols.optimizers import LINEAR, OPTIMIZERS, Name, State, impulses, make_step
from leakaudit.protocols.private import StepPrivacy, seed_of
from leakaudit.target.target import Target

MOST_STEPS = 1_000_000
"""Local steps of one round at most; chosen, a day of training: each has a place in lists of steps."""

Shares = Literal["weights", "delta"]


@dataclass(frozen=True)
class FedAvg(Protocol):
    """The client trains for some epochs and shares its weights, or their difference.

    Args:
        local_epochs: Passes over the client's data, each in an order of its own.
        local_batch_size: Samples of a step; ``None`` for all of them. The last step of a pass takes what remains.
        learning_rate: η of the local optimizer; chosen for examples, as a client has its own.
        momentum: Of SGD and RMSprop; it begins at zero in every round.
        nesterov: Nesterov's form of it, SGD only.
        weight_decay: λ, added to the gradient, or decoupled with AdamW.
        optimizer: See :data:`leakaudit.protocols.optimizers.OPTIMIZERS`.
        drop_last: Leave out a last step of fewer samples.
        shares: ``weights`` after training, or the ``delta``, weights after minus weights before.
        privacy: What is done to the gradient of every step, as DP-SGD does it; ``None`` for nothing.
        untold: Which of :data:`WITHHELD` the server does not know. The fields then hold what clients are simulated with
            where the answer is known; of an unknown batch size that is half the samples.
    """

    local_epochs: int = 1
    local_batch_size: int | None = None
    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    optimizer: Name = "sgd"
    drop_last: bool = False
    shares: Shares = "weights"
    privacy: StepPrivacy | None = None
    untold: tuple[str, ...] = ()

    name: ClassVar[str] = "fedavg"

    def __post_init__(self) -> None:
        self._check("local epochs", self.local_epochs >= 1, self.local_epochs, "1 or more")
        size = self.local_batch_size
        self._check("local batch size", size is None or size >= 1, size, "1 or more")
        steps = -(-self.samples // self._size) * self.local_epochs
        self._check("local steps", steps <= MOST_STEPS, steps, f"at most {MOST_STEPS} before weights are shared")
        rate = self.learning_rate
        self._check("learning rate", 0 < rate < float("inf"), rate, "a number above 0")
        self._check("momentum", 0 <= self.momentum < 1, self.momentum, "0 or more, below 1")
        self._check("weight decay", 0 <= self.weight_decay < float("inf"), self.weight_decay, "0 or more")
        self._check("optimizer", self.optimizer in OPTIMIZERS, self.optimizer, f"one of {', '.join(OPTIMIZERS)}")
        takes = self.optimizer in ("sgd", "rmsprop") or not self.momentum
        self._check("momentum", takes, self.momentum, f"none with {self.optimizer}, which has its own")
        takes = not self.nesterov or (self.optimizer == "sgd" and self.momentum > 0)
        self._check("nesterov", takes, self.nesterov, "only with sgd and a momentum above 0")
        strangers = [name for name in self.untold if name not in WITHHELD]
        self._check("unknown settings", not strangers, ", ".join(strangers), f"of {', '.join(WITHHELD)}")
        some = not self.drop_last or self._size <= self.samples
        self._check("local batch size", some, size, f"at most the {self.samples} samples, with drop-last")

    def _check(self, what: str, right: bool, value: object, expected: str) -> None:
        if not right:
            raise UsageError(f"{what} {value}: expected {expected}")

    @property
    def title(self) -> str:  # type: ignore[override]
        """Names what is shared, and after how many steps."""
        shared = "weights" if self.shares == "weights" else "difference of weights"
        return f"FedAvg: {shared} after {'local steps' if self._uncounted else count(self.steps, 'local step')}"

    @property
    def samples(self) -> int:
        """Of the client, visited once an epoch."""
        return self.batch_size

    @property
    def withheld(self) -> tuple[str, ...]:
        """Those of `untold`, in the order of the fields."""
        return tuple(name for name in WITHHELD if name in self.untold)

    @property
    def _uncounted(self) -> bool:
        """Whether nobody but the client knows how many steps it took."""
        return bool({"local_epochs", "local_batch_size"} & {*self.untold})

    @property
    def _size(self) -> int:
        if "local_batch_size" in self.untold:
            return max(1, self.samples // 2)
        return self.local_batch_size or self.samples

    @property
    def step_sizes(self) -> tuple[int, ...]:
        """As a loader makes them: full steps, then the rest, in every epoch."""
        full, rest = divmod(self.samples, self._size)
        return ((self._size,) * full + ((rest,) if rest and not self.drop_last else ())) * self.local_epochs

    @property
    def linear(self) -> bool:
        """Whether the update is a weighted mean of the steps' gradients."""
        return self.optimizer in LINEAR

    @property
    def one_gradient(self) -> bool:
        """Of a step at a rate that nobody knows, not even the scale is known."""
        return super().one_gradient and not self.untold

    @property
    def bent_by(self) -> str:
        """Adam, AdamW or RMSprop."""
        return "" if self.linear else _NAMES[self.optimizer]

    @property
    def shuffled(self) -> bool:
        """Whether a step takes some of the samples only."""
        return self.samples > self._size

    def only(self, samples: int) -> FedAvg:
        """The same client with so many samples, all of them in every step: one step an epoch."""
        return replace(self, batch_size=samples, local_batch_size=None, drop_last=False)

    @property
    def kept(self) -> float:
        """a, the share of the weights that decay leaves of a row that no gradient touched."""
        return self._weights[0]

    @property
    def step_weights(self) -> list[float]:
        """How much the gradient of every step counts in what was learnt, c_k; the learning rate where not linear."""
        return self._weights[1]

    @cached_property
    def _weights(self) -> tuple[float, list[float]]:
        if self.linear:
            return impulses(self.steps, self.learning_rate, self.momentum, self.nesterov, self.weight_decay)
        decoupled = self.weight_decay if self.optimizer == "adamw" else 0.0
        return (1 - self.learning_rate * decoupled) ** self.steps, [self.learning_rate] * self.steps

    def update(
        self,
        target: Target,
        play: Play,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        functional: bool = False,
    ) -> Update:
        """Train from the model's weights on the play; without an order, samples are visited as they stand."""
        before = target.parameters if parameters is None else dict(parameters)
        step = make_step(
            *(self.optimizer, self.learning_rate),
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )
        keep = create_graph or functional
        now, state = before, State()
        how: dict[str, Any] = {"create_graph": create_graph, "functional": functional}
        for number, chosen in enumerate(self.visits(play)):
            of_step = (target, play.inputs[chosen], play.labels[chosen], play.masks_of(number))
            if self.privacy is None:
                errors = None if play.errors is None or self.steps > 1 else play.errors[chosen]
                found = gradient(*of_step, parameters=now, errors=errors, **how)
            else:
                found = self.privacy.gradient(*of_step, parameters=now, seed=seed_of(play, number), **how)
            now, state = step(now, found, state, number)
            if not keep:
                now = {name: tensor.detach().requires_grad_() for name, tensor in now.items()}
        made = self._in_units(now, before)
        return made if keep else {name: tensor.detach() for name, tensor in made.items()}

    def visits(self, play: Play) -> Iterator[Tensor]:
        """Positions of the samples of every local step (n,), in order."""
        device = play.inputs.device
        for epoch in range(self.local_epochs):
            given = torch.arange(len(play.inputs)) if play.order is None else play.order[epoch]
            for chosen in torch.split(given.to(device), self._size):
                if not (self.drop_last and len(chosen) < self._size):
                    yield chosen

    def _in_units(self, after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept, parts = self._weights
        total = sum(parts)
        if kept == 1:
            return {name: (before[name] - tensor) / total for name, tensor in after.items()}
        return {
            name: self._learnt(kept * before[name].double(), tensor, before[name].dtype) / total
            for name, tensor in after.items()
        }

    def _learnt(self, decayed: Tensor, after: Tensor, trained: torch.dtype) -> Tensor:
        """What is left without the decay's share, in float64 as θ is far larger; zero where that is the rounding alone.

        An entry that no gradient touched differs from its decayed start by one rounding a step at most, of the type
        that was trained.
        """
        difference = decayed - after.double()
        rounding = self.steps * torch.finfo(trained).eps * decayed.detach().abs()
        return difference.where(difference.detach().abs() > rounding, 0.0).to(after.dtype)

    def from_shared(self, shared: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Update:
        """What the client learnt, from its weights or their difference, as a weighted mean of gradients."""
        tensors = belonging(shared, before)
        begun = {name: before[name].detach() for name in tensors}
        if self.shares == "delta":
            tensors = {name: begun[name].double() + tensor.double() for name, tensor in tensors.items()}
        return {name: tensor.to(begun[name].dtype) for name, tensor in self._in_units(tensors, begun).items()}

    def moved(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of the update's units."""
        kept, parts = self._weights
        return {name: (kept - 1) * before[name].detach() - sum(parts) * tensor for name, tensor in update.items()}

    def rounding(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, float]:
        """Of weights rounded once a step: σ = rms(ulp) √(K/12) / Σ c, the ulp at the larger of the weights at both
        ends."""
        total = sum(self._weights[1])
        moved = self.moved(update, before)
        largest = {name: torch.maximum(before[name].abs(), (before[name] + way).abs()) for name, way in moved.items()}
        return {n: spacing(tensor.detach()) * (self.steps / 12) ** 0.5 / total for n, tensor in largest.items()}

    def learnt(self, moved: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A difference of weights in the update's units, rounded as the client's weights are where it shares those."""
        begun = {name: before[name].detach() for name in moved}
        if self.shares == "weights":
            after = {name: begun[name] + tensor for name, tensor in moved.items()}
        else:
            after = {name: begun[name].double() + tensor.double() for name, tensor in moved.items()}
        return {name: tensor.to(begun[name].dtype) for name, tensor in self._in_units(after, begun).items()}

    @property
    def passes(self) -> int:
        """One an epoch."""
        return self.local_epochs

    def sharing(self, kind: str) -> FedAvg:
        """Weights, or else their difference."""
        return replace(self, shares="weights" if kind == "weights" else "delta")

    def privately(self, privacy: StepPrivacy | None) -> FedAvg:
        """With this done to every step's gradients."""
        return replace(self, privacy=privacy)

    def draws(self, generator: Generator) -> Mapping[str, Tensor]:
        """The seed of the noise of all steps, where there is any."""
        return {} if self.privacy is None else self.privacy.draws(generator)

    def order(self, generator: Generator, samples: int) -> Tensor | None:
        """A shuffle per epoch, (epochs, samples); none where every step takes all samples."""
        if samples <= self._size:
            return None
        return torch.stack([torch.randperm(samples, generator=generator) for _ in range(self.local_epochs)])

    def of_samples(self, samples: int) -> FedAvg:
        """In steps of one sample where the client's steps take a part of its samples, else of all."""
        apart = samples > 1 and self._size < self.samples
        return replace(self, batch_size=samples, local_batch_size=1 if apart else None)

    def taking(self, steps: int) -> FedAvg:
        """In other epochs, or with fewer samples where one epoch takes more steps than that."""
        each = self.steps // self.local_epochs
        if steps >= each:
            return replace(self, local_epochs=steps // each)
        return replace(self, local_epochs=1, batch_size=sum(self.step_sizes[:steps]))

    def assumption(self, shared: str = "undefended", made: str = "computed") -> str:
        """How many samples, steps and epochs, and with which optimizer."""
        what = "its weights" if self.shares == "weights" else "the difference of its weights"
        momentum = f", {'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}" if self.momentum else ""
        known = "" if self.withheld else f" {self.weight_decay:g}"
        decay = f", weight decay{known}" if self.weight_decay else ""
        alone = " One step of SGD over all samples is the gradient itself." if self.one_gradient else ""
        rate = "" if "learning_rate" in self.untold else f"learning rate {self.learning_rate:g}"
        taken = "" if "local_epochs" in self.untold else f", {count(self.local_epochs, 'epoch')}"
        taken += "" if "local_batch_size" in self.untold else f", steps of {self._size}"
        steps = "steps" if self._uncounted else count(self.steps, "step")
        unknown = f" ({not_known(self.withheld)})" if self.withheld else ""
        settings = f"{rate}{momentum}{decay}".removeprefix(", ")
        return (
            f"FedAvg: the client shares {what} after {steps} of {_NAMES[self.optimizer]} "
            f"({settings}{'; ' if settings else ''}{count(self.batch_size, 'sample')}{taken}{self._private})"
            f"{unknown}, {shared}, {made} in {self.mode} mode.{alone}"
        )

    @property
    def _private(self) -> str:
        return "" if self.privacy is None else f", {self.privacy.told(max(self.step_sizes))}"

    def facts(self) -> dict[str, Any]:
        """With the local training; ``None`` for what is not known of it."""
        known = {
            "local_epochs": self.local_epochs,
            "local_batch_size": self._size,
            "local_steps": self.steps,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }
        hidden = {*self.untold, *(("local_steps",) if self._uncounted else ())}
        if self.withheld and self.weight_decay:  # its rate follows from what is withheld
            hidden.add("weight_decay")
        return {
            **super().facts(),
            **{name: None if name in hidden else value for name, value in known.items()},
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "optimizer": self.optimizer,
            "samples": self.samples,
        }


_NAMES: dict[Name, str] = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}


def spacing(tensor: Tensor) -> float:
    """Root mean square of the distances of numbers to the next one of their type."""
    _, exponent = torch.frexp(tensor)
    ulp = torch.ldexp(torch.ones_like(tensor, dtype=torch.float64), exponent - 1) * torch.finfo(tensor.dtype).eps
    return float(ulp.where(tensor != 0, 0.0).square().mean().sqrt())
