"""What was tried: how much of its plan each attack ran, and what is missing for its failure to be evidence.

That an attack recovered nothing says something only where it works: where its positive control passed, with no more
iterations than the victims had, where it ran a fair part of its plan on all victims, where its objective fell, and
where its ladder of local steps reached as many as clients take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leakaudit.document.schema import AttackEntry, VictimResult
from leakaudit.document.status import ControlStatus, RunStatus
from leakaudit.findings.ladder import gap
from leakaudit.findings.registry import Evidence
from leakaudit.report.wording import number

LEAST_SHARE = 0.1
"""Share of an attack's iterations on all victims below which its failure says nothing, whatever its control shows;
chosen."""
FALLEN = 0.9
"""Objective at its lowest, relative to the start, above which it counts as not fallen; chosen."""
MATCHED = 1e-6
"""Cosine distance to the update at which there is nothing left to fall; rounding of 32-bit gradients leaves such."""


@dataclass(frozen=True)
class Effort:
    """What one attack did.

    Args:
        attack: Its row of the ledger.
        victims: How many it was to attack.
        missing: What its failure lacks to be evidence, or "".
        counts: Whether that speaks against the whole audit: an attack that applies but was not tried well enough.
    """

    attack: AttackEntry
    victims: int
    missing: str
    counts: bool

    @property
    def told(self) -> str:
        """How much of its plan it ran, in words."""
        done = [result.iterations for result in self.attack.results]
        victims = f"on {len(done)} of {self.victims} victim{'s' if self.victims > 1 else ''}"
        if self.attack.planned is None or not done:
            return f"{self.attack.title} ran {victims}" if done else f"{self.attack.title} did not run"
        low, high = min(done), max(done)
        each = number(low) if low == high else f"{number(low)} to {number(high)}"
        return f"{self.attack.title} ran {each} of {number(self.attack.planned)} iterations {victims}"


def efforts(evidence: Evidence) -> list[Effort]:
    """Of every attack that was asked for and that some attacker could run, those that apply."""
    every = [attack for attack in evidence.attacks if not attack.upper_bound]
    real = [attack for attack in every if not attack.in_passing] or every
    return [_effort(attack, evidence) for attack in real if attack.status is RunStatus.RUN or attack.cut]


def _effort(attack: AttackEntry, evidence: Evidence) -> Effort:
    victims = attack.cut.planned if attack.cut else len(attack.results)
    missing = next(_gaps(attack, victims), "") or gap(attack.name, evidence)
    status, why = _control(attack, evidence)
    if missing or status is ControlStatus.PASSED:
        return Effort(attack, victims, missing, bool(missing))
    # algebra has no budget: where no bundled network fits it, it is no evidence, but nothing is left undone
    counts = attack.family == "optimisation" or status is ControlStatus.FAILED
    return Effort(attack, victims, why, counts)


def _control(attack: AttackEntry, evidence: Evidence) -> tuple[ControlStatus, str]:
    """What became of its positive control, and what that means where it did not pass."""
    own = [c for c in evidence.controls if c.kind == "positive" and c.attack == attack.name]
    if not own:
        return ControlStatus.NOT_RUN, "its positive control was not run"
    if own[0].status is ControlStatus.FAILED:
        return own[0].status, "it did not recover a known leak either"
    return own[0].status, f"its positive control says nothing: {own[0].detail}"


def _gaps(attack: AttackEntry, victims: int) -> Iterator[str]:
    """What is missing beside a control."""
    if not attack.results:
        yield attack.cut.told if attack.cut else "it did not run"
    if attack.planned and (share := done_of_plan(attack, victims)) < LEAST_SHARE:
        yield f"that is {number(100 * share, 2)} % of its plan"
    if attack.family == "closed form" and any(cut.stopped for result in attack.results for cut in result.cuts):
        yield "it was stopped before it was through"
    stuck = sum(not fell(result) for result in attack.results)
    if attack.family == "optimisation" and stuck:
        yield f"its objective did not fall on {stuck} of {len(attack.results)} victims"


def done_of_plan(attack: AttackEntry, victims: int) -> float:
    """Share of an attack's iterations on so many victims that it did; all of it where it does not plan any."""
    done = sum(result.iterations for result in attack.results)
    return done / (attack.planned * victims) if attack.planned else 1.0


def starved(attacks: Sequence[AttackEntry]) -> bool:
    """Whether an attack that some attacker could run had no time, or too little to say something."""
    real = [attack for attack in attacks if not (attack.upper_bound or attack.in_passing)]
    short = (done_of_plan(a, a.cut.planned if a.cut else len(a.results)) < LEAST_SHARE for a in real if a.results)
    return any(attack.cut is not None and not attack.results for attack in real) or any(short)


def fell(result: VictimResult) -> bool:
    """Whether an optimisation came nearer to the update, or reached it; not where no history of it was kept."""
    values = [point.objective for point in result.history if point.objective is not None]
    if result.match is not None and result.match <= MATCHED:
        return True
    return bool(values) and min(values) <= FALLEN * values[0]


def listed(tried: Sequence[Effort]) -> str:
    """What was run, of optimisation attacks where there are any, since algebra has no plan."""
    searched = [effort for effort in tried if effort.attack.family == "optimisation"]
    return "; ".join(effort.told for effort in searched or tried)
