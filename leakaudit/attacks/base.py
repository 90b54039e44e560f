"""The contract of every attack: write `applies` and `run`, the base class does the rest.

An attack is a pure function ``(Target, Observation, Generator) -> Reconstruction``. It never sees the private batch.
Refusals are data, stated before time is spent: `applies` returns a `NotApplicable` that says what is missing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Generator

from leakaudit.domains.registry import taken
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.base import Play, Protocol, not_known
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, SilentMonitor
from leakaudit.target.parts import squared, squared_difference
from leakaudit.target.target import Target

REAL = ("images", "volumes", "signals")
"""Domains of real numbers without further structure: what an attack reads that does not mind the axes."""
JOINT = (*REAL, "table", "several")
"""All domains of real numbers: what an attack reads that knows them by their ranges, categories and priors alone."""
OPTIMISATION_COST = 50
"""Attacks below this cost are closed forms, which run first; by definition of `Attack.cost`."""
LEAST_STEPS = 100
"""Iterations of a restart below which an optimisation is not begun for want of time; chosen: the trials of the shortest
search take as many (`leakaudit.matching.search`), and nothing is left for what they choose."""


class Attack(ABC):
    """Base class of all attacks. Hyper-parameters are keyword-only fields of the attack's `settings` dataclass."""

    name: ClassVar[str]
    """The name on the command line."""
    title: ClassVar[str]
    """The name in the report."""
    threat_model: ClassVar[ThreatModel] = "B"
    """The weakest threat model it runs under."""
    finding: ClassVar[str] = ""
    """Id of the finding that its success is reported under; by its family (LA201, LA202) where empty."""
    positive_control: ClassVar[tuple[str, ...]] = ()
    """Bundled networks (`leakaudit.audit.references`) to try it on first; by default the first that it applies to."""
    control_samples: ClassVar[int] = 1
    """How many samples it needs at least, so how many its positive control has."""
    needs: ClassVar[str] = ""
    """One line: what it needs, for `leakaudit attacks`."""
    reference: ClassVar[str] = ""
    """Paper that it implements."""
    cost: ClassVar[int] = 50
    """Attacks run in ascending order of this; closed forms are below 50, optimisation attacks at 50 and above."""
    uses_statistics: ClassVar[bool] = False
    """Whether it uses BatchNorm statistics of the batch where the client shares them: it then runs under model E."""
    uses_auxiliary: ClassVar[bool] = False
    """Whether it learns from samples of a similar distribution: it is then given some, under threat model D."""
    uses_generator: ClassVar[bool] = False
    """Whether it searches the user's generator of samples: it is then given it, under threat model D, and what the
    generator makes without an update is a floor of its scores."""
    unaided: ClassVar[bool] = False
    """Whether it is given neither the inferred labels nor what an earlier attack found."""
    by_default: ClassVar[bool] = True
    """Whether a scan without ``--attack`` runs it; a baseline that another attack contains does not."""
    upper_bound: ClassVar[bool] = False
    """Whether it is given what no attacker has (the client's masks): a yardstick, never evidence of a leak."""
    soft_labels: ClassVar[bool] = False
    """Whether it takes class probabilities (B, K) as labels where the update shows that a label is no one class; all
    others are given the class with the largest share, and the report says what they assumed."""
    one_gradient: ClassVar[bool] = False
    """Whether its algebra is that of one gradient; it is then not asked for an update of several local steps."""
    over_steps: ClassVar[str] = "this attack reads a single gradient"
    """Why not, where `one_gradient` holds."""
    sum_of_gradients: ClassVar[bool] = False
    """Whether its algebra is that of sums of gradients, which local steps of SGD leave; it is then not asked for an
    update that another optimizer made."""
    told: ClassVar[tuple[str, ...]] = ("learning_rate", "local_epochs", "local_batch_size")
    """Settings of local training that it must be told: all, to replay the steps; without those that a client withholds
    it is not asked."""
    reads: ClassVar[tuple[str, ...]] = ("images",)
    """The domains whose samples it recovers, by `leakaudit.domains.base.Domain.kind`; it is not asked for others."""
    tasks: ClassVar[tuple[str, ...]] = ("single-label",)
    """The tasks whose labels it can do with, by `leakaudit.tasks.base.Task.kind`; it is not asked for others."""
    adapts: ClassVar[tuple[str, ...]] = ()
    """Names of the defences that it works through, `HANDED` for all whose counterpart is in the observation. It is told
    of every defence; its run counts as an evaluation of a client only if it works through all of the client's."""
    preparation: ClassVar[float] = 0.0
    """Share of its time that goes before its own iterations."""
    presets: ClassVar[dict[str, Any]]
    """Settings by preset name: quick, standard, paper."""
    in_passing: bool = False
    """Whether a scan tries it with less effort, since nobody asked for it; set by :meth:`tried_in_passing`."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def light(self) -> Any:
        """The settings of a try in passing, cheap enough for every scan; by default its own."""
        return self.settings

    @final
    def tried_in_passing(self) -> Attack:
        """The same attack with light settings, marked so that its failure is no evidence."""
        lighter = copy(self)
        lighter.settings, lighter.in_passing = self.light, True
        return lighter

    @property
    def family(self) -> Literal["closed form", "optimisation"]:
        """How it recovers: by algebra or by search."""
        return "closed form" if self.cost < OPTIMISATION_COST else "optimisation"

    @property
    def planned(self) -> int | None:
        """Iterations that its settings ask for, over all restarts; ``None`` for algebra, and where they do not say."""
        iterations = getattr(self.settings, "iterations", None)
        if self.family == "closed form" or not isinstance(iterations, int):
            return None
        return iterations * int(getattr(self.settings, "restarts", 1))

    @property
    def least(self) -> int | None:
        """Iterations over all restarts below which a run tells nothing; ``None`` where it does not plan any."""
        planned = self.planned
        return None if planned is None else min(planned, LEAST_STEPS * int(getattr(self.settings, "restarts", 1)))

    def step_cost(self, protocol: Protocol) -> float:
        """Cost of one of its iterations, relative to following what the client did once; by default that."""
        return 1.0

    @final
    def within(self, iterations: int) -> Attack:
        """The same attack with at most so many iterations over all restarts; itself where it does not plan any."""
        if self.planned is None or iterations >= self.planned:
            return self
        each = max(1, iterations // int(getattr(self.settings, "restarts", 1)))
        limited = copy(self)
        limited.settings = replace(self.settings, iterations=each)
        return limited

    def rival(self, sides: Sequence[int]) -> Attack | None:
        """The attack without this one's addition, at its best; the report shows its results beside this one's.

        Args:
            sides: Of the samples, see :attr:`leakaudit.domains.base.Domain.sides`.
        """
        return None

    @final
    def refusal(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Why this attack cannot run here, or ``None``: what its class facts rule out, then what `applies` says."""
        if target.domain.kind not in self.reads:
            return NotApplicable(f"the model takes {target.domain.takes}; this attack recovers {taken(self.reads)}")
        if target.task.kind not in self.tasks:
            known = " or ".join(self.tasks)
            return NotApplicable(f"a sample is labelled with {target.task.has}; this attack is for {known} models")
        flat = next((note.message for note in target.fidelity if note.id == "LA930"), "")
        if flat and self.family == "optimisation":
            return NotApplicable(f"gradient matching needs the second derivative: {flat}")
        protocol = observation.protocol
        if missing := [name for name in protocol.withheld if name in self.told]:
            return NotApplicable(f"{not_known(missing)}, and this attack needs to be told")
        if protocol.bent_by and (self.one_gradient or self.sum_of_gradients):
            return NotApplicable(f"{protocol.bent_by}: spans and ratios do not survive it; only SGD adds gradients up")
        if self.one_gradient and not protocol.one_gradient:
            what = f"of {protocol.steps} local steps" if protocol.steps > 1 else "the sum of several clients"
            return NotApplicable(f"the update is {what}; {self.over_steps}")
        return self.applies(target, observation)

    @abstractmethod
    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Why this attack cannot run here, or ``None``. Cheap: no optimisation, no large allocation."""

    @abstractmethod
    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Attack. Must poll ``monitor.should_stop()`` and return the best so far when it is true."""

    def run_together(
        self,
        target: Target,
        observations: Sequence[Observation],
        generators: Sequence[Generator],
        monitor: Monitor,
    ) -> list[Reconstruction] | None:
        """As :meth:`run` for several victims in one optimisation; ``None`` where that is not done.

        Told to stop, it leaves out the victims that it has not begun with, which are the last.
        """
        return None

    @final
    def together(
        self,
        target: Target,
        observations: Sequence[Observation],
        generators: Sequence[Generator],
        monitor: Monitor,
    ) -> list[Reconstruction] | None:
        """Run on several victims at once, each result as from a call; ``None`` where they are to be attacked in turn.

        The seconds of each are its share of the whole time.
        """
        started = time.perf_counter()
        found = self.run_together(target, observations, generators, monitor)
        if found is None:
            return None
        finished = [_finished(r, target, o) for r, o in zip(found, observations, strict=False)]
        seconds = (time.perf_counter() - started) / len(finished)
        return [replace(result, seconds=seconds) for result in finished]

    @final
    def __call__(
        self, target: Target, observation: Observation, generator: Generator, monitor: Monitor | None = None
    ) -> Reconstruction:
        """Run, clamp to the valid range, and regenerate the update for the residual."""
        started = time.perf_counter()
        result = self.run(target, observation, generator, monitor or SilentMonitor())
        return replace(_finished(result, target, observation), seconds=time.perf_counter() - started)


def _finished(result: Reconstruction, target: Target, observation: Observation) -> Reconstruction:
    """In the valid range, and with its residual."""
    inside = replace(result, inputs=observation.domain.finish(result.inputs))
    if inside.errors is not None:
        with torch.no_grad():
            outputs = target.logits(inside.inputs)
        inside = replace(inside, labels=target.task.behind(outputs, inside.errors.to(outputs)))
    protocol = observation.protocol
    if inside.incomplete or protocol.withheld or (inside.exact and protocol.shuffled):  # an order that nobody guessed
        return replace(inside, residual=float("nan"))
    return replace(inside, residual=relative_residual(target, observation, inside.play))


def relative_residual(target: Target, observation: Observation, play: Play) -> float:
    """‖g(x̂) − g*‖ / ‖g*‖ of a guess over the whole update, without knowledge of the true batch."""
    regenerated = observation.regenerate(target, play)
    difference = sum(squared_difference(regenerated[name], g) for name, g in observation.update.items())
    norm = sum(map(squared, observation.update.values()))
    return (difference / norm) ** 0.5 if norm > 0 else float("nan")


def cpu_generator(seed: int) -> Generator:
    """A generator of its own for one attack on one victim; the same on every device."""
    return torch.Generator("cpu").manual_seed(seed)
