"""Who waits for time, and the victims of an attack one after the other, or all at once, while there is some."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import OutOfMemoryError

from leakaudit.attacks.base import Attack
from leakaudit.audit.budget import Budget, Line, worth
from leakaudit.audit.environment import batches_well, seed_of
from leakaudit.audit.memory import Memory
from leakaudit.audit.pace import Pace, too_dear
from leakaudit.audit.request import Request
from leakaudit.audit.results import summarize
from leakaudit.audit.turns import Turn
from leakaudit.audit.victim import Outcome, Victim, attack_together, attack_victim
from leakaudit.document.status import Cause, Cut, Lost
from leakaudit.reconstruction import Monitor
from leakaudit.scoring.base import Measure
from leakaudit.target.target import Target


@dataclass(frozen=True, eq=False)
class Queue:
    """What a run needs but attack and victim: what it takes, who else waits for time, who is recovered.

    Args:
        target: The model under audit.
        measure: The audit's.
        request: What was asked for.
        budget: Time, and Ctrl-C.
        memory: What the audit keeps.
        pace: What runs take.
        later: Attacks that come after this one, each with a victim.
        recovered: Numbers of the victims that are recovered for certain.
        longest: Seconds of the longest search before, which a control of it will need; ``None`` before one.
        beside: What the attack stands beside, for whoever watches.
    """

    target: Target
    measure: Measure[Any]
    request: Request
    budget: Budget
    memory: Memory
    pace: Pace
    later: Sequence[tuple[Attack, Victim]]
    recovered: set[int]
    longest: float | None = None
    beside: str = ""

    def monitor(self, attack: Attack, victims: Sequence[Victim], done: Sequence[Outcome] = ()) -> Monitor | None:
        """For the run on the first of the victims still to be attacked; ``None`` where there is not the time for it.

        Args:
            attack: What is run.
            victims: Still to be attacked.
            done: What it made of others before.
        """
        taken = [outcome.reconstruction.seconds for outcome in done]
        control = kept_for_control(attack, self.longest, taken) if self.budget.reserve else 0.0
        line = line_of(attack, victims, self.later, self.recovered, control=control, first=not done)
        return self.budget.next(lambda: self.pace.of(attack), line)


def kept_for_control(attack: Attack, longest: float | None, taken: Sequence[float]) -> float | None:
    """Seconds that the positive control keeps, by those of searches before and of this one on other victims."""
    if attack.upper_bound:
        return longest or 0.0
    own = taken if attack.family == "optimisation" else ()
    return max((*own, *([] if longest is None else [longest])), default=None)


def line_of(
    attack: Attack,
    victims: Sequence[Victim],
    later: Sequence[tuple[Attack, Victim]],
    recovered: Collection[int],
    *,
    control: float | None,
    first: bool,
) -> Line:
    """Who waits for time when an attack is about to be run on the first of these victims.

    Args:
        attack: What is run.
        victims: Still to be attacked.
        later: Attacks that come after this one, each with a victim.
        recovered: Numbers of the victims that are recovered for certain.
        control: Seconds that the positive control keeps, see :class:`leakaudit.audit.budget.Line`.
        first: Whether the attack was run on none before.
    """
    own, *rest = [worth(attack, recovered=v.number in recovered) for v in victims]
    after = [(a.name, worth(a, recovered=v.number in recovered)) for a, v in later]
    once = dict(reversed(after))
    return Line(
        *(own, sum(rest), sum(value for _, value in after), sum(once.values())),
        control=control,
        first=first,
        light=attack.in_passing or attack.upper_bound,
    )


def _all_at_once(attack: Attack, victims: Sequence[Victim], queue: Queue) -> list[Outcome] | None:
    """All victims in one optimisation; ``None`` where the attack, the device or a lack of memory speaks against it."""
    budget = queue.budget
    in_turn = type(attack).run_together is Attack.run_together
    if in_turn or len(victims) < 2 or budget.spent() or not batches_well(queue.target):
        return None
    monitor = queue.monitor(attack, victims)
    if monitor is None:
        return None
    budget.work.begin(attack, len(victims))
    budget.observer.attack(attack.title + queue.beside, 0, len(victims))
    seeds = [seed_of(queue.request.seed, attack.name, victim.number) for victim in victims]
    try:
        found = attack_together(attack, queue.target, victims, queue.measure, seeds, monitor, queue.memory)
    except OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    for outcome in found or []:
        budget.observer.result(attack.title + queue.beside, summarize(outcome))
    return found


def _left(count: int, victims: Sequence[Victim], cause: Cause | None) -> Cut | None:
    """That the last victims are left out, if they are."""
    return Cut(Lost.VICTIMS, cause or Cause.BUDGET, count, len(victims)) if count < len(victims) else None


def run_on_victims(turn: Turn, victims: Sequence[Victim], queue: Queue) -> Turn:
    """Attack each victim as long as there is time; a GPU that is too small ends it with what there is."""
    outcomes: list[Outcome] = []
    attack, budget, done = turn.attack, queue.budget, queue.budget.work.done
    if (together := _all_at_once(attack, victims, queue)) is not None:
        return replace(turn, outcomes=together, cut=_left(len(together), victims, budget.spent()))
    budget.work.done = done
    for position, victim in enumerate(victims):
        if cause := budget.spent():
            return replace(turn, outcomes=outcomes, cut=_left(position, victims, cause))
        monitor = queue.monitor(attack, victims[position:], outcomes)
        if monitor is None:
            dear = too_dear(attack, queue.pace, budget.whole().left)
            what = f"not run on {len(victims) - position} more" if position else "not run"
            budget.observer.result(attack.title + queue.beside, f"{what} ({Cause.SHORT}): {dear}")
            return replace(turn, outcomes=outcomes, cut=_left(position, victims, Cause.SHORT), dear=dear)
        budget.work.begin(attack)
        budget.observer.attack(attack.title + queue.beside, position, len(victims))
        seed = seed_of(queue.request.seed, attack.name, victim.number)
        try:
            outcome = attack_victim(attack, queue.target, victim, queue.measure, seed, monitor, queue.memory)
        except OutOfMemoryError:
            torch.cuda.empty_cache()
            return replace(turn, outcomes=outcomes, cut=_left(position, victims, Cause.MEMORY))
        outcomes.append(outcome)
        budget.observer.result(attack.title + queue.beside, summarize(outcome))
    return replace(turn, outcomes=outcomes)
