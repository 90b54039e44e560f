"""Run every attack on every victim, within the budget, and say what became of each.

Attacks go from the cheapest to the dearest, so that later ones can build on what earlier ones found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import OutOfMemoryError

from leakaudit.attacks.base import PLANNED, Attack, Monitor
from leakaudit.attacks.registry import create
from leakaudit.budget import Budget, worth
from leakaudit.controls import Run
from leakaudit.environment import batches_well, seed_of
from leakaudit.options import AuditOptions
from leakaudit.report import assemble
from leakaudit.report.document import AttackEntry, Comparison
from leakaudit.score import Scorer
from leakaudit.score_tokens import TokenScorer
from leakaudit.target.target import Target
from leakaudit.victim import Outcome, Victim, attack_together, attack_victim


def run_attacks(
    attacks: Sequence[Attack],
    target: Target,
    victims: Sequence[Victim],
    scorer: Scorer | TokenScorer,
    options: AuditOptions,
    budget: Budget,
) -> tuple[list[Run], dict[str, Reason]]:
    """Run every attack on every victim.

    Returns:
        A run per attack, without outcomes where it did not run, and why by the attack's name.
    """
    runs: list[Run] = []
    reasons: dict[str, Reason] = {}
    open_to, refused = _where_applicable(attacks, target, victims, options, reasons)
    for position, attack in enumerate(attacks):
        if not open_to[attack.name]:
            runs.append(Run(attack, []))
            continue
        later = [(other, v) for other in attacks[position + 1 :] for v in open_to[other.name]]
        recovered = {o.victim.number for run in runs for o in run.outcomes if o.certified}
        queue = Queue(target, scorer, options, budget, later, recovered)
        outcomes, why = _run_on_victims(attack, open_to[attack.name], queue)
        runs.append(Run(attack, outcomes))
        beside = None
        if outcomes and (rival := attack.rival()) is not None:
            same = _outcomes_of(rival, runs)
            if same is None:
                attacked = [outcome.victim for outcome in outcomes]
                same, _ = _run_on_victims(rival, attacked, queue)
            beside = assemble.comparison(rival, [assemble.victim_result(outcome) for outcome in same])
        text = "; ".join(filter(None, [why or _cut(outcomes), *refused[attack.name]]))
        reasons[attack.name] = Reason("run" if outcomes else "not_run", text, beside)
    return runs, reasons


def _where_applicable(
    attacks: Sequence[Attack],
    target: Target,
    victims: Sequence[Victim],
    options: AuditOptions,
    reasons: dict[str, Reason],
) -> tuple[dict[str, list[Victim]], dict[str, list[str]]]:
    """The victims that each attack can be run on, and why not on others; fills in why it runs on none.

    All are asked before the first runs, so that no time is kept back for what will not run.
    """
    open_to: dict[str, list[Victim]] = {}
    refused: dict[str, list[str]] = {}
    for attack in attacks:
        open_to[attack.name] = []
        if attack.threat_model > options.threat_model:
            reasons[attack.name] = Reason("not_run", _forbidden(attack, options))
            continue
        refusals = {v.number: attack.refusal(*v.attacked_by(attack, target)) for v in victims}
        open_to[attack.name] = [v for v in victims if refusals[v.number] is None]
        why = [(number, refusal.reason) for number, refusal in refusals.items() if refusal is not None]
        refused[attack.name] = [f"victim {number}: {reason}" for number, reason in why]
        if not open_to[attack.name]:
            reasons[attack.name] = Reason("not_applicable", why[0][1])
    return open_to, refused


def _cut(outcomes: Sequence[Outcome]) -> str:
    """What the time budget cost an attack that ran on every victim, or ""."""
    notes = [[n for n in o.reconstruction.notes if n.startswith(PLANNED)] for o in outcomes]
    cut = [found[0] for found in notes if found]
    return f"{cut[0]}, on {len(cut)} of {len(outcomes)} victims" if cut else ""


@dataclass(frozen=True)
class Reason:
    """What became of an attack, and why, for the ledger."""

    status: Literal["run", "not_applicable", "not_run"]
    text: str
    beside: Comparison | None = None


def _outcomes_of(rival: Attack, runs: Sequence[Run]) -> list[Outcome] | None:
    """The rival's outcomes where it has been run with these settings and at least as many iterations."""
    wanted = asdict(rival.settings)
    for run in runs:
        settings = asdict(run.attack.settings)
        same = run.attack.name == rival.name and {**settings, "iterations": 0} == {**wanted, "iterations": 0}
        if same and run.outcomes and settings["iterations"] >= wanted["iterations"]:
            return run.outcomes
    return None


def entry_of(run: Run, victim: Victim, reasons: Mapping[str, Reason]) -> AttackEntry:
    """The ledger's row of an attack that was asked for, with its results."""
    why = reasons[run.attack.name]
    results = [assemble.victim_result(outcome) for outcome in run.outcomes]
    entry = assemble.attack_entry(run.attack, victim, why.status, why.text, results)
    entry.beside = why.beside
    return entry


def left_out(name: str, victim: Victim, options: AuditOptions) -> AttackEntry:
    """The ledger's row of an attack that was not asked for."""
    attack = create(name, options.preset)
    why = "not among the attacks asked for" if options.attacks else "a baseline that other attacks contain"
    reason = f"{why}: run it with --attack {name}"
    if attack.threat_model > options.threat_model:
        reason = _forbidden(attack, options)
    return assemble.attack_entry(attack, victim, "not_run", reason)


def _forbidden(attack: Attack, options: AuditOptions) -> str:
    return f"needs threat model {attack.threat_model}, and --threat-model {options.threat_model} does not allow it"


@dataclass(frozen=True, eq=False)
class Queue:
    """What a run needs beside attack and victim: who else waits for time, and who is recovered already."""

    target: Target
    scorer: Scorer | TokenScorer
    options: AuditOptions
    budget: Budget
    later: Sequence[tuple[Attack, Victim]]
    recovered: set[int]

    def monitor(self, attack: Attack, victims: Sequence[Victim]) -> Monitor:
        """For the run on the first of the victims still to be attacked."""
        own, *rest = [worth(attack, recovered=v.number in self.recovered) for v in victims]
        after = sum(worth(other, recovered=v.number in self.recovered) for other, v in self.later)
        return self.budget.share((own + sum(rest) + after) / own)


def _all_at_once(attack: Attack, victims: Sequence[Victim], queue: Queue) -> list[Outcome] | None:
    """All victims in one optimisation; ``None`` where the attack, the device or a lack of memory speaks against it."""
    budget = queue.budget
    in_turn = type(attack).run_together is Attack.run_together
    if in_turn or len(victims) < 2 or budget.spent() or not batches_well(queue.target):
        return None
    budget.observer.attack(attack.title, 0, len(victims))
    seeds = [seed_of(queue.options.seed, attack.name, victim.number) for victim in victims]
    monitor = queue.monitor(attack, victims)
    try:
        found = attack_together(attack, queue.target, victims, queue.scorer, seeds, monitor)
    except OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    for outcome in found or []:
        budget.observer.result(attack.title, assemble.summarize(outcome))
    return found


def _run_on_victims(attack: Attack, victims: Sequence[Victim], queue: Queue) -> tuple[list[Outcome], str]:
    """Attack each victim as long as there is time; a GPU that is too small ends it with what there is."""
    outcomes: list[Outcome] = []
    budget = queue.budget
    if (together := _all_at_once(attack, victims, queue)) is not None:
        return together, ""
    for position, victim in enumerate(victims):
        spent = budget.spent()
        if spent:
            return outcomes, f"{spent}: {len(outcomes)} of {len(victims)} victims attacked"
        budget.observer.attack(attack.title, position, len(victims))
        seed = seed_of(queue.options.seed, attack.name, victim.number)
        monitor = queue.monitor(attack, victims[position:])
        try:
            outcome = attack_victim(attack, queue.target, victim, queue.scorer, seed, monitor)
        except OutOfMemoryError:
            torch.cuda.empty_cache()
            return outcomes, f"out of memory on victim {victim.number}: use --device cpu, or a smaller --batch-size"
        outcomes.append(outcome)
        budget.observer.result(attack.title, assemble.summarize(outcome))
    return outcomes, ""
