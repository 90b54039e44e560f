"""Run every attack on every victim, within the budget, and say what became of each.

Attacks go from the cheapest to the dearest, so that later ones can build on what earlier ones found. An attack that
extends another is followed by that one at its best, its rival, with an equal share of the time, unless that was asked
for anyway: its one run then counts as it is, even if cut short.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import OutOfMemoryError

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import create
from leakaudit.audit import assemble
from leakaudit.audit.budget import Budget, Line, steps_of, worth
from leakaudit.audit.environment import batches_well, seed_of
from leakaudit.audit.memory import Memory
from leakaudit.audit.pace import Pace, too_dear
from leakaudit.audit.request import Request
from leakaudit.audit.results import summarize, victim_result
from leakaudit.audit.scene import Run
from leakaudit.audit.victim import Outcome, Victim, attack_together, attack_victim
from leakaudit.document.schema import AttackEntry, Comparison
from leakaudit.document.status import Cause, Cut, Lost, RunStatus
from leakaudit.reconstruction import Monitor
from leakaudit.scoring.base import Measure
from leakaudit.target.target import Target


@dataclass(frozen=True, eq=False)
class Campaign:
    """What an audit runs on its victims, before it does.

    Args:
        attacks: That were asked for.
        turns: Those that apply, each with its victims, in the order in which they are run.
        refused: By the attack's name why it does not apply to some victims.
        reasons: Why others are run on none.
    """

    attacks: Sequence[Attack]
    turns: Sequence[Turn]
    refused: Mapping[str, Sequence[str]]
    reasons: Mapping[str, Reason]


def campaign_of(attacks: Sequence[Attack], target: Target, victims: Sequence[Victim], request: Request) -> Campaign:
    """Ask each attack which victims it applies to."""
    reasons: dict[str, Reason] = {}
    open_to, refused = _where_applicable(attacks, target, victims, request, reasons)
    return Campaign(attacks, _turns(attacks, open_to), refused, reasons)


def run_attacks(
    campaign: Campaign,
    target: Target,
    victims: Sequence[Victim],
    measure: Measure[Any],
    request: Request,
    budget: Budget,
    memory: Memory,
    pace: Pace,
) -> tuple[list[Run], dict[str, Reason], list[Victim]]:
    """Run every attack on every victim; `pace` tells what runs take.

    Returns:
        A run per attack, without outcomes where it did not run, and per rival that nobody asked for and that read
        something; why by the attack's name; and the victims with what is handed on from attack to attack.
    """
    turns, reasons = campaign.turns, dict(campaign.reasons)
    done: list[Turn] = []
    now = {victim.number: victim for victim in victims}
    budget.work.total = _steps(turns, request)
    for position, turn in enumerate(turns):
        later = [(other.attack, v) for other in turns[position + 1 :] for v in other.victims]
        recovered = {o.victim.number for before in done for o in before.outcomes if o.certified}
        attacked = turn.attacked(recovered) if turn.beside is None else [o.victim for o in done[-1].outcomes]
        beside = f" beside {turn.beside.title}" if turn.beside else ""
        queue = Queue(target, measure, request, budget, memory, pace, later, recovered, _longest(done), beside)
        ended = _run_on_victims(turn, [now[victim.number] for victim in attacked], queue)
        now |= {o.victim.number: o.victim.after(turn.attack, o.reconstruction) for o in ended.outcomes}
        done.append(ended)
    for turn in done:
        if turn.beside is None:
            reasons[turn.attack.name] = _reason(turn, campaign.refused[turn.attack.name], _comparison(turn, done))
    outcomes_of = {turn.attack.name: _with_leaks_beside(turn, done) for turn in done if turn.beside is None}
    runs = [Run(attack, outcomes_of.get(attack.name, [])) for attack in campaign.attacks]
    for rival in _leaking_rivals(done, {attack.name for attack in campaign.attacks}):
        extended = rival.beside.title if rival.beside is not None else ""
        text = f"not asked for: it is what {extended} is compared with, and it read something"
        reasons[rival.attack.name] = Reason(RunStatus.RUN, text, cut=rival.cut)
        runs.append(Run(rival.attack, rival.outcomes))
    return runs, reasons, [now[victim.number] for victim in victims]


def _longest(done: Sequence[Turn]) -> float | None:
    """Seconds that the positive control of a search will need, as far as one was run: those of its longest run."""
    searched = [t for t in done if t.attack.family == "optimisation" and not (t.attack.upper_bound or t.beside)]
    return max((o.reconstruction.seconds for turn in searched for o in turn.outcomes), default=None)


def _steps(turns: Sequence[Turn], request: Request) -> int:
    """Of all runs, with those of the controls: as a rule one on a known network and one without an update."""
    steps = [steps_of(turn.attack) for turn in turns for _ in turn.victims]
    return sum(steps) + (2 * max(steps, default=0) if request.controls != "none" else 0)


@dataclass(frozen=True, eq=False)
class Turn:
    """An attack on its victims.

    Args:
        attack: The attack.
        victims: Those that it applies to.
        beside: The attack whose rival this is, where it is run for the comparison alone; it comes just before.
        outcomes: Of those that there was time and memory for.
        cut: What time or memory cost it in victims.
        dear: What it would have taken, where there was not the time.
    """

    attack: Attack
    victims: Sequence[Victim]
    beside: Attack | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    cut: Cut | None = None
    dear: str = ""

    @property
    def why(self) -> str:
        """What time or memory cost it, or ""."""
        if self.cut is None:
            return _shortened(self.outcomes)
        return f"{self.cut.told}: {self.dear}" if self.dear else self.cut.told

    def attacked(self, recovered: Collection[int]) -> Sequence[Victim]:
        """The victims of this turn: in passing only those that nothing has recovered for certain, or the first."""
        if not self.attack.in_passing:
            return self.victims
        return [v for v in self.victims if v.number not in recovered] or self.victims[:1]

    def stands_beside(self, attack: Attack, rival: Attack) -> bool:
        """Whether this turn is what an attack is compared with; what is tried in passing takes the rival as it is."""
        own = self.beside is None and self.attack.name == rival.name
        return self.beside is attack or self.stands_in(rival) or (attack.in_passing and own)

    def stands_in(self, rival: Attack) -> bool:
        """Whether this is an attack's rival, with its settings and at least as many iterations."""
        if self.beside is not None or self.attack.name != rival.name:
            return False
        own, wanted = asdict(self.attack.settings), asdict(rival.settings)
        enough = bool(own.pop("iterations", 0) >= wanted.pop("iterations", 0))
        return enough and own == wanted


def _turns(attacks: Sequence[Attack], open_to: Mapping[str, Sequence[Victim]]) -> list[Turn]:
    """The attacks that apply, each followed by its rival unless a turn before is that."""
    turns: list[Turn] = []
    for attack in attacks:
        victims = open_to[attack.name]
        if not victims:
            continue
        rival = attack.rival()
        known = rival is None or attack.in_passing or any(turn.stands_in(rival) for turn in turns)
        turns.append(Turn(attack, victims))
        if rival is not None and not known:
            turns.append(Turn(rival, victims, beside=attack))
    return turns


def _with_leaks_beside(turn: Turn, done: Sequence[Turn]) -> list[Outcome]:
    """The outcomes of a turn, and what the same attack read where it was run for a comparison.

    As of several attacks, what any run reads is read: a report must not say that nothing was shown above a sample that
    is shown. Of two runs that read something of a victim the one that matches the update better counts. Runs that read
    nothing change nothing, so that what was tried is told of the attack's own.
    """
    found = {outcome.victim.number: outcome for outcome in turn.outcomes}
    for other in done:
        if other.beside is None or other.attack.name != turn.attack.name:
            continue
        for outcome in (o for o in other.outcomes if o.leaked):
            own = found.get(outcome.victim.number)
            better = own is None or not own.leaked or outcome.reconstruction.match < own.reconstruction.match
            if better:
                found[outcome.victim.number] = _noted(outcome, other)
    return [found[number] for number in sorted(found)]


def _leaking_rivals(done: Sequence[Turn], asked: Collection[str]) -> list[Turn]:
    """Turns of rivals that read something and that nobody asked for, one of each attack, whose leaks count as well."""
    leaking = [turn for turn in done if turn.beside is not None and any(o.leaked for o in turn.outcomes)]
    return list({turn.attack.name: turn for turn in reversed(leaking) if turn.attack.name not in asked}.values())


def _noted(outcome: Outcome, turn: Turn) -> Outcome:
    """The outcome of a rival's run, which says so."""
    extended = turn.beside.title if turn.beside is not None else ""
    note = f"From the run that {extended} is compared with, which gave more away; its settings stand there."
    made = outcome.reconstruction
    return replace(outcome, reconstruction=replace(made, notes=(*made.notes, note)))


def _comparison(turn: Turn, done: Sequence[Turn]) -> Comparison | None:
    """What the attack's rival made of the same victims, in a turn of its own or in the one that it was asked for."""
    rival = turn.attack.rival()
    if rival is None or not turn.outcomes:
        return None
    other = next((t for t in done if t.stands_beside(turn.attack, rival)), None)
    if other is None:
        return None
    results, own = ([victim_result(outcome) for outcome in t.outcomes] for t in (other, turn))
    in_ledger = other.beside is None
    return assemble.comparison(other.attack, results, other.why, other.cut, in_ledger=in_ledger, own=own)


def _reason(turn: Turn, refusals: Sequence[str], beside: Comparison | None) -> Reason:
    """For the ledger's row: what an attack's turn and its rival's lost, and where it does not apply."""
    lost = f"beside it, {beside.title}: {beside.reason}" if beside is not None and beside.reason else ""
    text = "; ".join(filter(None, [turn.why, *refusals, lost]))
    return Reason(RunStatus.RUN if turn.outcomes else RunStatus.NOT_RUN, text, beside, turn.cut)


def _where_applicable(
    attacks: Sequence[Attack],
    target: Target,
    victims: Sequence[Victim],
    request: Request,
    reasons: dict[str, Reason],
) -> tuple[dict[str, list[Victim]], dict[str, list[str]]]:
    """The victims that each attack can be run on, and why not on others; fills in why it runs on none.

    All are asked before the first runs, so that no time is kept back for what will not run.
    """
    open_to: dict[str, list[Victim]] = {}
    refused: dict[str, list[str]] = {}
    for attack in attacks:
        open_to[attack.name] = []
        if attack.threat_model > request.threat_model:
            reasons[attack.name] = Reason(RunStatus.NOT_RUN, _forbidden(attack, request))
            continue
        refusals = {v.number: attack.refusal(*v.attacked_by(attack, target)) for v in victims}
        open_to[attack.name] = [v for v in victims if refusals[v.number] is None]
        why = [(number, refusal.reason) for number, refusal in refusals.items() if refusal is not None]
        refused[attack.name] = [f"victim {number}: {reason}" for number, reason in why]
        if not open_to[attack.name]:
            reasons[attack.name] = Reason(RunStatus.NOT_APPLICABLE, why[0][1])
    return open_to, refused


def _shortened(outcomes: Sequence[Outcome]) -> str:
    """What the time budget cost an attack that ran on every victim, or ""."""
    cuts = [[cut for cut in o.reconstruction.cuts if not cut.stopped] for o in outcomes]
    cut = [found[-1] for found in cuts if found]
    return f"{cut[0].told}, on {len(cut)} of {len(outcomes)} victims" if cut else ""


@dataclass(frozen=True)
class Reason:
    """What became of an attack, and why, for the ledger."""

    status: RunStatus
    text: str
    beside: Comparison | None = None
    cut: Cut | None = None


def entry_of(run: Run, victim: Victim, reasons: Mapping[str, Reason]) -> AttackEntry:
    """The ledger's row of an attack that was asked for, with its results."""
    why = reasons[run.attack.name]
    results = [victim_result(outcome) for outcome in run.outcomes]
    entry = assemble.attack_entry(run.attack, victim, why.status, why.text, results)
    entry.beside, entry.cut = why.beside, why.cut
    return entry


def left_out(name: str, victim: Victim, request: Request) -> AttackEntry:
    """The ledger's row of an attack that was not asked for."""
    attack = create(name, request.preset)
    why = "not among the attacks asked for" if request.attacks else "a baseline that other attacks contain"
    reason = f"{why}: run it with --attack {name}"
    if attack.threat_model > request.threat_model:
        reason = _forbidden(attack, request)
    return assemble.attack_entry(attack, victim, RunStatus.NOT_RUN, reason)


def _forbidden(attack: Attack, request: Request) -> str:
    return f"needs threat model {attack.threat_model}, and --threat-model {request.threat_model} does not allow it"


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


def _run_on_victims(turn: Turn, victims: Sequence[Victim], queue: Queue) -> Turn:
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
