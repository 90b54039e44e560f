"""An attack on its victims, and beside it the attack that it extends: its rival, what it is compared with.

An attack that extends another is followed by that one at its best, with an equal share of the time, unless that was
asked for anyway: its one run then counts as it is, even if cut short.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from leakaudit.attacks.base import Attack
from leakaudit.audit import assemble
from leakaudit.audit.results import victim_result
from leakaudit.audit.victim import Outcome, Victim
from leakaudit.document.schema import Comparison
from leakaudit.document.status import Cut


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


def turns_of(attacks: Sequence[Attack], open_to: Mapping[str, Sequence[Victim]]) -> list[Turn]:
    """The attacks that apply, each followed by its rival unless a turn before is that."""
    turns: list[Turn] = []
    for attack in attacks:
        victims = open_to[attack.name]
        if not victims:
            continue
        rival = attack.rival(victims[0].observation.domain.sides)
        known = rival is None or attack.in_passing or any(turn.stands_in(rival) for turn in turns)
        turns.append(Turn(attack, victims))
        if rival is not None and not known:
            turns.append(Turn(rival, victims, beside=attack))
    return turns


def with_leaks_beside(turn: Turn, done: Sequence[Turn]) -> list[Outcome]:
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


def leaking_rivals(done: Sequence[Turn], asked: Collection[str]) -> list[Turn]:
    """Turns of rivals that read something and that nobody asked for, one of each attack, whose leaks count as well."""
    leaking = [turn for turn in done if turn.beside is not None and any(o.leaked for o in turn.outcomes)]
    return list({turn.attack.name: turn for turn in reversed(leaking) if turn.attack.name not in asked}.values())


def _noted(outcome: Outcome, turn: Turn) -> Outcome:
    """The outcome of a rival's run, which says so."""
    extended = turn.beside.title if turn.beside is not None else ""
    note = f"From the run that {extended} is compared with, which gave more away; its settings stand there."
    made = outcome.reconstruction
    return replace(outcome, reconstruction=replace(made, notes=(*made.notes, note)))


def comparison_of(turn: Turn, done: Sequence[Turn]) -> Comparison | None:
    """What the attack's rival made of the same victims, in a turn of its own or in the one that it was asked for."""
    if not turn.outcomes:
        return None
    rival = turn.attack.rival(turn.victims[0].observation.domain.sides)
    if rival is None:
        return None
    other = next((t for t in done if t.stands_beside(turn.attack, rival)), None)
    if other is None:
        return None
    results, own = ([victim_result(outcome) for outcome in t.outcomes] for t in (other, turn))
    in_ledger = other.beside is None
    return assemble.comparison(other.attack, results, other.why, other.cut, in_ledger=in_ledger, own=own)


def _shortened(outcomes: Sequence[Outcome]) -> str:
    """What the time budget cost an attack that ran on every victim, or ""."""
    cuts = [[cut for cut in o.reconstruction.cuts if not cut.stopped] for o in outcomes]
    cut = [found[-1] for found in cuts if found]
    return f"{cut[0].told}, on {len(cut)} of {len(outcomes)} victims" if cut else ""
