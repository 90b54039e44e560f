"""The client: the only place where an update is computed from private samples.

An honest client decides on a play of its batch (order, dropout masks), makes the update that the protocol asks for,
defends it, and shares it with the BatchNorm statistics that the protocol shares. An update that a real client sent is
read by the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.client.rounds.statistics import recorded_statistics
from leakaudit.defences.base import ClientStep, Defence, Member, protected, refuse_order
from leakaudit.domains.base import Domain
from leakaudit.errors import AuditError
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play, Protocol, Update
from leakaudit.protocols.gradients import sample_gradients
from leakaudit.target.batchnorm import Call, revealed, watched
from leakaudit.target.coupling import refuse_coupled
from leakaudit.target.dropout import Masks, Steps, dropout_layers, record
from leakaudit.target.parts import is_finite
from leakaudit.target.target import Target


class NoTraceError(AuditError):
    """The update is zero in every tensor: the samples behind it leave no trace."""


def observe(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    domain: Domain,
    seed: int = 0,
    defences: Sequence[Defence] = (),
) -> Observation:
    """Compute the update that the client would share and wrap it with the declared knowledge.

    Args:
        target: The model. In train mode its dropout is on for the client alone, and off afterwards.
        batch: Private samples; ``len(batch)`` equals ``protocol.batch_size``.
        protocol: How the update is made.
        domain: What a sample is; its normalisation is the client's.
        seed: Of whatever the client draws: dropout masks, the noise of a defence.
        defences: What the client does to its update before it shares it, in this order. Those that change the model or
            the protocol have already done so to `target` and `protocol`.

    Returns:
        An observation without labels and masks, which the attacker infers.

    Raises:
        AuditError: The gradient is not finite.
        NoTraceError: It is zero everywhere.
    """
    return observe_step(target, batch, protocol, domain, seed, defences)[0]


def observe_step(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    domain: Domain,
    seed: int = 0,
    defences: Sequence[Defence] = (),
    recorded: RecordedUpdate | None = None,
) -> tuple[Observation, Steps]:
    """As :func:`observe`, with the dropout masks that the client drew, by step and layer; for measuring an upper bound.

    A `recorded` update of a real client is taken as it was sent, with the statistics that came with it; of its masks
    nothing is known.
    """
    if recorded is not None:
        update = protocol.from_shared(recorded.tensors, target.parameters)
        statistics = recorded_statistics(target, recorded.buffers, protocol) or None
        exchange = protocol.rounding(update, target.parameters)
        return Observation(update, protocol, domain, batch_statistics=statistics, exchange=exchange), ()
    work = work_of(target, batch, protocol, domain, seed, defences)
    update = protected(work.update, work.step, defences, seed) if defences else dict(work.update)
    _refuse_broken(update)
    once = len(protocol.step_sizes) == 1  # running statistics after several steps mix those of their batches
    statistics = revealed(target, work.layers, protocol.shared_statistics) or None if once else None
    exchange = protocol.rounding(work.update, target.parameters)
    seen = Observation(update, protocol, domain, batch_statistics=statistics, exchange=exchange)
    return seen, work.masks


def refuse_unfit(target: Target, defences: Sequence[Defence]) -> None:
    """Refuse defences that cannot act on this model, or not in this order, before any time is spent on it.

    Raises:
        UsageError: See `refuse_order` and `refuse_coupled`.
    """
    refuse_order(defences)
    for defence in defences:
        if defence.acts_on_samples:
            refuse_coupled(target, f"--defence {defence}")


@dataclass(frozen=True, eq=False)
class Work:
    """What a client has once it has computed its update, before it defends it.

    Args:
        update: Undefended.
        step: What its defences are given.
        masks: Dropout masks that it drew, by step and layer.
        layers: Its BatchNorm layers at work.
    """

    update: Mapping[str, Tensor]
    step: ClientStep
    masks: Steps
    layers: Mapping[str, Call]


def work_of(
    target: Target, batch: Batch, protocol: Protocol, domain: Domain, seed: int, defences: Sequence[Defence] = ()
) -> Work:
    """A client's work on a batch, see :func:`observe`; the same for the same arguments, whatever is shared of it."""
    device = next(iter(target.parameters.values())).device
    order = protocol.order(torch.Generator().manual_seed(seed), len(batch))
    unknowns = protocol.draws(torch.Generator().manual_seed(seed))
    play = Play(domain.encode(batch.images.to(device)), batch.labels.to(device), order, unknowns=unknowns)
    with _drawing(target, defences, seed), _client_dropout(target, protocol, seed) as drawn, watched(target) as layers:
        made = protocol.update(target, play)
    masks: Steps = tuple(drawn) if any(drawn) else ()
    play = replace(play, masks=masks)

    def drawing() -> AbstractContextManager[None]:
        return _drawing(target, defences, seed)

    alone = _Alone(target, protocol, play, drawing, _redrawn(defences))
    members = _Members(target, protocol, play, defences, drawing)
    step = ClientStep(target, play.inputs, play.labels, alone, protocol=protocol, members=members)
    return Work({name: tensor.detach() for name, tensor in made.items()}, step, masks, layers)


@contextmanager
def _drawing(target: Target, defences: Sequence[Defence], seed: int) -> Iterator[None]:
    """What the defences draw within the model, each from a generator of its own; the same every time."""
    with ExitStack() as stack:
        for number, defence in enumerate(defences):
            stack.enter_context(defence.drawing(target, torch.Generator().manual_seed(seed + number)))
        yield


def _redrawn(defences: Sequence[Defence]) -> bool:
    """Whether a defence draws within the model, for the batch as a whole."""
    return any(type(defence).drawing is not Defence.drawing for defence in defences)


def _refuse_broken(update: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in update.items() if not is_finite(tensor)]
    if broken:
        raise AuditError(
            f"the update has NaN or infinite values in {broken[0]} ({len(broken)} of {len(update)} tensors)",
            "check the model's weights and the --mean and --std of its inputs",
        )
    if all(not bool(tensor.any()) for tensor in update.values()):
        raise NoTraceError(
            "the update is zero in every tensor: this batch leaves no trace in it",
            "the model may be saturated on these inputs; check --mean and --std, or draw other samples with --seed",
        )


@dataclass(eq=False)
class _Alone:
    """The update of one sample of a batch by itself, under all that the client drew for it.

    Args:
        target: The model.
        protocol: How updates are made.
        play: Of the whole batch.
        drawing: Draws within the model what was drawn for the batch.
        together: Whether there is something drawn for the batch as a whole.

    Raises:
        UsageError: When called: the samples are coupled.
        AuditError: When called: after several local steps there is none.
    """

    target: Target
    protocol: Protocol
    play: Play
    drawing: Callable[[], AbstractContextManager[None]]
    together: bool
    asked: bool = False
    known: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, position: int) -> Update:
        if not self.protocol.one_gradient:
            what = f"{self.protocol.steps} local steps" if self.protocol.steps > 1 else "an optimizer that bends it"
            raise AuditError(
                f"a defence acts on each sample's gradient, the update is of {what}",
                "clip per update (per=update), or audit one gradient",
            )
        if not self.asked:
            refuse_coupled(self.target, "a defence")
            self.asked = True
            if self._in_one_forward():
                with self.drawing():
                    self.known = sample_gradients(self.target, self.play)
        if self.known:
            return self.known[position]
        single = self.protocol.privately(None)  # a private step is made of single gradients
        return {name: g.detach() for name, g in single.alone(self.target, self.play, position).items()}

    def _in_one_forward(self) -> bool:
        """Whether samples cannot be run one by one: something has no row of each, or the file takes no single ones."""
        size, sizes = len(self.play.inputs), self.target.batch_sizes
        masks = (mask for step in self.play.masks for mask in step.values())
        rows = all(len(mask) == 1 or len(mask) % size == 0 for mask in masks)
        return self.together or not rows or (sizes is not None and 1 not in sizes)


@dataclass(eq=False)
class _Members:
    """The clients behind an update, each with what it has in hand; none where there is one client.

    Args:
        target: The model.
        protocol: How the update is made.
        play: Of all of them.
        defences: One of them may sum over clients.
        drawing: Draws within the model what was drawn for the batch.
    """

    target: Target
    protocol: Protocol
    play: Play
    defences: Sequence[Defence]
    drawing: Callable[[], AbstractContextManager[None]]
    known: list[Member] = field(default_factory=list)

    def __call__(self) -> Sequence[Member]:
        counts = next((defence.members for defence in self.defences if defence.members), ())
        if counts and not self.known:
            sizes = [count or len(self.play.inputs) // len(counts) for count in counts]
            parts = zip(self.protocol.parts(sizes), self.protocol.plays(self.play, sizes), strict=True)
            self.known = [self._member(weight, protocol, play) for (weight, protocol), play in parts]
        return self.known

    def _member(self, weight: float, protocol: Protocol, play: Play) -> Member:
        with self.drawing():
            made = protocol.update(self.target, play)
        alone = _Alone(self.target, protocol, play, self.drawing, _redrawn(self.defences))
        step = ClientStep(self.target, play.inputs, play.labels, alone, protocol=protocol)
        return Member(weight, {name: tensor.detach() for name, tensor in made.items()}, step)


@contextmanager
def _client_dropout(target: Target, protocol: Protocol, seed: int) -> Iterator[Sequence[Masks]]:
    """Dropout on while the client computes a train-mode update, with masks from `seed` recorded by step; then off."""
    layers = dropout_layers(target.module).values()
    for layer in layers:
        layer.train(protocol.mode == "train")
    with record(target.module, torch.Generator().manual_seed(seed)) as masks:
        try:
            yield masks
        finally:
            for layer in layers:
                layer.eval()
