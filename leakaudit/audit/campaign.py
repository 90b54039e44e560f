"""Run every attack on every victim, within the budget, and say what became of each.

Attacks go from the cheapest to the dearest, so that later ones can build on what earlier ones found, each followed by
its rival where it has one (`leakaudit.audit.turns`). How far its victims are reached is a matter of time
(`leakaudit.audit.queue`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leakaudit.attacks.base import Attack
from leakaudit.audit.budget import Budget, steps_of
from leakaudit.audit.memory import Memory
from leakaudit.audit.pace import Pace
from leakaudit.audit.queue import Queue, run_on_victims
from leakaudit.audit.reasons import Reason, forbidden, reason_of
from leakaudit.audit.request import Request
from leakaudit.audit.scene import Run
from leakaudit.audit.turns import Turn, comparison_of, leaking_rivals, turns_of, with_leaks_beside
from leakaudit.audit.victim import Victim
from leakaudit.document.status import RunStatus
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
    return Campaign(attacks, turns_of(attacks, open_to), refused, reasons)


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
        ended = run_on_victims(turn, [now[victim.number] for victim in attacked], queue)
        now |= {o.victim.number: o.victim.after(turn.attack, o.reconstruction) for o in ended.outcomes}
        done.append(ended)
    for turn in done:
        if turn.beside is None:
            reasons[turn.attack.name] = reason_of(turn, campaign.refused[turn.attack.name], comparison_of(turn, done))
    outcomes_of = {turn.attack.name: with_leaks_beside(turn, done) for turn in done if turn.beside is None}
    runs = [Run(attack, outcomes_of.get(attack.name, [])) for attack in campaign.attacks]
    for rival in leaking_rivals(done, {attack.name for attack in campaign.attacks}):
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
            reasons[attack.name] = Reason(RunStatus.NOT_RUN, forbidden(attack, request))
            continue
        refusals = {v.number: attack.refusal(*v.attacked_by(attack, target)) for v in victims}
        open_to[attack.name] = [v for v in victims if refusals[v.number] is None]
        why = [(number, refusal.reason) for number, refusal in refusals.items() if refusal is not None]
        refused[attack.name] = [f"victim {number}: {reason}" for number, reason in why]
        if not open_to[attack.name]:
            reasons[attack.name] = Reason(RunStatus.NOT_APPLICABLE, why[0][1])
    return open_to, refused
