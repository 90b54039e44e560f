"""What an audit is about to do and how long that takes, before it does it: from one measured step.

Seconds are those of all planned steps, at most: an attack ends earlier where it converges, and a compiled step is
faster than the measured one. Algebra counts as nothing; it takes seconds. With a time budget each run has what the
budget will give it (`leakaudit.audit.budget`), as far as the runs before it take no less than they may.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from leakaudit.audit.attacks import chosen_attacks
from leakaudit.audit.budget import Budget, allotted, attacks_share
from leakaudit.audit.campaign import Campaign
from leakaudit.audit.pace import Need, Pace, too_dear
from leakaudit.audit.queue import kept_for_control, line_of
from leakaudit.audit.request import Request
from leakaudit.audit.turns import Turn
from leakaudit.audit.victim import Victim
from leakaudit.document.counting import count
from leakaudit.document.status import Cause
from leakaudit.errors import UsageError
from leakaudit.findings.effort import LEAST_SHARE
from leakaudit.observer import SilentObserver
from leakaudit.report.wording import number, seconds
from leakaudit.target.target import Target

WORTH_SAYING = 10.0
"""Seconds from which a plan is said before an audit; chosen, as long as a terminal may be silent."""
LONG = 3600.0
"""Seconds on a processor from which an audit without a time budget is told what would shorten it; chosen."""


@dataclass(frozen=True)
class PlannedRun:
    """One attack of a plan.

    Args:
        title: Its name in the report.
        victims: On how many it is begun.
        of: Victims of the audit.
        need: What one run takes; ``None`` for algebra, and where that cannot be told.
        given: Seconds of each run.
        reason: Why it is not run, or not on all victims.
        light: Whether it is only tried in passing.
    """

    title: str
    victims: int
    of: int
    need: Need | None = None
    given: Sequence[float] = ()
    reason: str = ""
    light: bool = False

    @property
    def seconds(self) -> float:
        """Of all its runs, at most."""
        return sum(self.given)

    @property
    def steps(self) -> int:
        """Iterations of its shortest run."""
        if self.need is None or not self.given:
            return 0
        return max(1, min(self.need.steps, round(self.need.steps * min(self.given) / self.need.whole)))

    @property
    def told(self) -> str:
        """What is done, in words."""
        where = f"{count(self.victims, 'victim')}" + (f" of {self.of}" if self.victims < self.of else "")
        if not self.victims:
            return f"not run: {self.reason}"
        more = f"; {self.reason}" if self.reason else ""
        if self.need is None:
            return f"{where}, in closed form or of unknown length{more}"
        cut = f" of {number(self.need.steps)}" if self.steps < self.need.steps else ""
        steps = f"{number(self.steps)}{cut} steps of {seconds(self.need.step)} each"
        return f"{where}, {steps}, about {seconds(self.seconds)}{more}"


@dataclass(frozen=True)
class Plan:
    """What an audit is about to do.

    Args:
        runs: By attack, in the order in which they are run; those that will not run stand last.
        victims: How many.
        size: Samples behind each update.
        step: Measured seconds of a step, or ``None``.
        spent: Seconds until here: reading, rank analysis, updates, labels.
        controls: Seconds of the positive control, 0 for none; ``None`` where it does not fit into the budget.
        level: Which controls were asked for.
        budget: Seconds of the time budget, or ``None``.
        quick: Seconds of the same attacks under the preset quick.
        device: Where it is computed.
        label: Of the variant, where there are several.
        at_least: Whether `step` is the client's update alone, which every step takes longer than.
    """

    runs: Sequence[PlannedRun]
    victims: int
    size: int
    step: float | None
    spent: float
    controls: float | None
    level: str
    budget: float | None = None
    quick: float = 0.0
    device: str = "cpu"
    label: str = field(default="", kw_only=True)
    at_least: bool = field(default=False, kw_only=True)

    @property
    def seconds(self) -> float:
        """Of what is left to do, at most."""
        return sum(run.seconds for run in self.runs) + (self.controls or 0.0)

    @property
    def lines(self) -> list[str]:
        """The whole plan."""
        each = count(self.size, "sample")
        head = f"Plan{f' of {self.label}' if self.label else ''}: {count(self.victims, 'victim')}, {each} each"
        lines = [f"{head}, on {self.device}; {self._step()}"]
        lines += [f"  {run.title}: {run.told}" for run in self.runs]
        lines += [f"  controls: {self._controls()}", f"In all {self._in_all()}, after {seconds(self.spent)} until here"]
        return [*lines, *filter(None, [self.hopeless])]

    @property
    def short(self) -> list[str]:
        """What is said before an audit: nothing where it is short, and else what takes the time."""
        unfit = [run for run in self.runs if run.need is not None and not run.victims]
        if self.seconds < WORTH_SAYING and not unfit:
            return []
        dear = [f"{run.title} {run.told}" for run in self.runs if run.need is not None]
        return [f"plan: {'; '.join(dear)}; in all {self._in_all()}", *filter(None, [self.hopeless])]

    @property
    def hopeless(self) -> str:
        """Where an audit on a processor is long, or a budget too short to say something: what would do it, or ""."""
        if self.budget is None:
            if self.device != "cpu" or self.seconds < LONG:
                return ""
            way = "a machine with a GPU (--device cuda), fewer --victims, or a --time-budget"
            quick = f"--preset quick (about {seconds(self.quick)}), " if self.quick < self.seconds / 2 else ""
            return f"that is long for a processor: {quick}{way} shorten it"
        lacking = [run for run in self.runs if run.need is not None and not run.light and self._lacks(run)]
        if not lacking:
            return ""
        needed = max(LEAST_SHARE * run.need.whole * run.of for run in lacking if run.need is not None)
        wanted = self.spent + needed * (1 if self.level == "none" else 1 + 1 / self.victims)
        names = ", ".join(run.title for run in lacking)
        more = " and more" if any(run.need is not None and run.need.at_least for run in lacking) else ""
        way = f"--time-budget {number(_rounded(wanted))}{more}" + (", or a GPU" if self.device == "cpu" else "")
        return f"{seconds(self.budget)} are too few for {names} to say something: {way} would do"

    def _lacks(self, run: PlannedRun) -> bool:
        """Whether a run gets too little of its plan for its failure to count."""
        return run.need is not None and run.seconds < LEAST_SHARE * run.need.whole * run.of

    def _step(self) -> str:
        if self.step is None:
            return "no step was measured"
        return f"a step takes {'more than ' if self.at_least else ''}{seconds(self.step)}, measured"

    def _controls(self) -> str:
        if self.level == "none":
            return "none were asked for"
        if self.controls is None:
            return "not run, the time budget leaves no room: nothing shown will be no evidence"
        longer = "" if self.level == "quick" else ", and as long again for every attack and victim"
        return f"{self.level}, about {seconds(self.controls)}; of what leaks twice that more{longer}"

    def _in_all(self) -> str:
        budget = "" if self.budget is None else f" of a budget of {seconds(self.budget)}"
        return f"at most about {seconds(self.seconds)}{budget}"


def _rounded(value: float) -> int:
    """Seconds up to a full ten."""
    return int(-(-value // 10) * 10)


def plan_of(
    campaign: Campaign,
    target: Target,
    victims: Sequence[Victim],
    request: Request,
    pace: Pace,
    spent: float,
) -> Plan:
    """The plan of an audit whose victims are there.

    Args:
        campaign: What is run.
        target: The model under audit.
        victims: With their updates and labels.
        request: What was asked for.
        pace: Measures a step where some attack has a use for it.
        spent: Seconds until here.
    """
    turns = campaign.turns
    budget = Budget.of(SilentObserver(), request.time_budget, 1.0, spent).left
    shares = _Shares.of(budget, attacks_share(len(victims)) if request.controls != "none" else 1.0)
    runs = [_planned(turn, turns[place + 1 :], shares, pace, campaign, victims) for place, turn in enumerate(turns)]
    runs += [
        PlannedRun(attack.title, 0, len(victims), reason=campaign.reasons[attack.name].text)
        for attack in campaign.attacks
        if attack.name in campaign.reasons
    ]
    control: float | None = 0.0 if request.controls == "none" else shares.longest or 0.0
    if control and shares.whole is not None and shares.whole < control:
        control = None
    step, at_least = pace.known([run.need for run in runs if run.need])
    return Plan(
        runs,
        len(victims),
        victims[0].observation.batch_size,
        step,
        spent,
        control,
        request.controls,
        request.time_budget,
        _quick(turns, pace, request) if request.time_budget is None else math.inf,
        next(iter(target.parameters.values())).device.type,
        at_least=at_least,
    )


@dataclass(eq=False)
class _Shares:
    """What is left while a plan is made; ``None`` without a limit."""

    left: float | None
    whole: float | None
    reserve: bool
    longest: float | None = None

    @classmethod
    def of(cls, seconds: float | None, share: float) -> _Shares:
        return cls(None if seconds is None else share * seconds, seconds, share < 1)

    def take(self, seconds: float) -> float:
        """Use so many."""
        self.left = None if self.left is None else max(0.0, self.left - seconds)
        self.whole = None if self.whole is None else max(0.0, self.whole - seconds)
        return seconds


def _planned(
    turn: Turn, later: Sequence[Turn], shares: _Shares, pace: Pace, campaign: Campaign,
    victims: Sequence[Victim],
) -> PlannedRun:  # fmt: skip
    """One attack on its victims, as far as there is time."""
    attack, need = turn.attack, pace.of(turn.attack)
    waiting = [(other.attack, victim) for other in later for victim in other.victims]
    chosen = turn.attacked(())
    given: list[float] = []
    for place in range(len(chosen)):
        control = kept_for_control(attack, shares.longest, given) if shares.reserve else 0.0
        line = line_of(attack, chosen[place:], waiting, (), control=control, first=not given)
        unlimited = shares.left is None or shares.whole is None
        part = (need.whole if need else 0.0) if unlimited else allotted(need, line, shares.left or 0, shares.whole or 0)
        if part is None:
            break
        given.append(shares.take(min(part, need.whole) if need else 0.0))
    if given and need and not attack.upper_bound and turn.beside is None:
        shares.longest = max(shares.longest or 0.0, *given)
    title = attack.title + (f" beside {turn.beside.title}" if turn.beside else "")
    lost = "" if given or not need else f"{Cause.SHORT}: {too_dear(attack, pace, shares.whole)}"
    reason = "; ".join(filter(None, [lost, *(campaign.refused[attack.name] if turn.beside is None else ())]))
    return PlannedRun(title, len(given), len(victims), need, given, reason, attack.in_passing or attack.upper_bound)


def _quick(turns: Sequence[Turn], pace: Pace, request: Request) -> float:
    """Seconds of the same attacks on the same victims under the preset quick; infinite where it refuses a setting."""
    try:
        quick = {attack.name: attack for attack in chosen_attacks(replace(request, preset="quick"))}
    except UsageError:
        return math.inf
    needs = [(pace.of(quick[turn.attack.name]), len(turn.victims)) for turn in turns if turn.beside is None]
    return sum(need.whole * victims for need, victims in needs if need)
