"""Controls: the same attacks, with the same settings, where the answer is known.

======== =====================================================================================================
positive A bundled network of the same input shape that is known to leak (`leakaudit.audit.references`), one generated
         sample. For an optimisation attack that claims nothing it is of the kind and size of the model under audit, and
         the attack has as many iterations as on the victim that got the fewest. If the sample is not recovered, the
         attack is "not working here" and its failure elsewhere says nothing; where time ended the control first,
         nothing is decided.
negative The update of a different batch, scored against the victim. It must fall to the floors. With several
         victims these are the reconstructions at hand, exchanged; with one, a further run.
prior    No update: every tensor replaced by Gaussian noise of the same norm, the inferred labels kept, no warm
only     start, no shared statistics. What comes out is the attack's prior; it becomes a floor of that attack.
======== =====================================================================================================

``quick`` runs the negative and the prior-only control of every attack that claims a leak, on one victim, and the
positive control of the strongest of them; where nothing leaked, or every claim was taken back, the positive control of
every attack that ran.
``full`` runs all three for every attack and every victim. An attack that refuses to run without information passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.audit.budget import Budget
from leakaudit.audit.environment import seed_of
from leakaudit.audit.memory import Memory, attack_once
from leakaudit.audit.references import reference_target, synthetic_batch
from leakaudit.audit.request import Level
from leakaudit.audit.victim import Knowledge, Outcome, Victim, attack_victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.document.schema import ControlEntry
from leakaudit.document.status import Cause
from leakaudit.domains.base import Domain
from leakaudit.domains.references import Reference
from leakaudit.errors import LeakauditError, ModelError
from leakaudit.observation import Observation
from leakaudit.protocols.base import Protocol
from leakaudit.reconstruction import NotApplicable
from leakaudit.scoring.base import Measure, SampleScore
from leakaudit.target.inventory import inventory
from leakaudit.target.target import Target

Kind = Literal["positive", "negative", "prior_only"]
REFERENCE_SAMPLES = 120
"""Samples of a bundled network's batch; chosen, more than the hundred distractors that a leak has to be told from."""
ENDED = {Cause.BUDGET: "time budget spent", Cause.INTERRUPT: "interrupted"}
NEGATIVE_FAILED = "the attack's negative control failed"


@dataclass(frozen=True, eq=False)
class Run:
    """An attack and its outcomes, one per victim that it was run on."""

    attack: Attack
    outcomes: list[Outcome]

    @property
    def claims(self) -> bool:
        """Whether it says that a sample leaked."""
        return not self.attack.upper_bound and any(outcome.leaked for outcome in self.outcomes)

    @property
    def iterations(self) -> int:
        """Iterations on the victim that got the fewest."""
        return min((outcome.reconstruction.iterations for outcome in self.outcomes), default=0)

    @property
    def strength(self) -> float:
        """How far its best result is above the floors."""
        return max((s.strength for o in self.outcomes for s in o.scores), default=float("-inf"))


@dataclass(frozen=True, eq=False)
class Scene:
    """What the controls have in common with the audit.

    Args:
        target: The model under audit.
        samples: The batch file.
        domain: What a sample is.
        measure: The audit's own.
        protocol: How updates are made.
        knowledge: Defences, public images, and the audit's seed.
        budget: Time, and Ctrl-C.
        memory: What the audit keeps.
        level: Which controls.
    """

    target: Target
    samples: Batch
    domain: Domain
    measure: Measure[Any]
    protocol: Protocol
    knowledge: Knowledge
    budget: Budget
    memory: Memory
    level: Level


def control(runs: Sequence[Run], scene: Scene) -> tuple[list[Run], list[ControlEntry]]:
    """Run the controls, and take back the claims that do not survive them.

    Returns:
        The runs, scored against their prior-only floor and without the uncertified leaks of attacks whose negative
        control failed; and what each control showed.
    """
    plan = _plan(runs, scene.level)
    judged, entries = _carried_out(plan, {id(run): run for run in runs}, scene)
    if any(run.claims for run in runs) and not any(run.claims for run in judged.values()):
        entries = [entry for entry in entries if entry.kind != "positive"]  # of an attack that was believed to work
        plan = [(kind, run) for kind, run in _plan(list(judged.values()), scene.level) if kind == "positive"]
        judged, more = _carried_out(plan, {id(run): run for run in judged.values()}, scene)
        return list(judged.values()), [*entries, *more]
    return [judged[id(run)] for run in runs], entries


def _carried_out(
    plan: Sequence[tuple[Kind, Run]], runs: dict[int, Run], scene: Scene
) -> tuple[dict[int, Run], list[ControlEntry]]:
    """Run controls; the runs as these leave them, by the key that they had, and what each control showed."""
    judged = dict(runs)
    entries: list[ControlEntry] = []
    for position, (kind, run) in enumerate(plan):
        if cause := scene.budget.spent():
            entries.append(_entry(kind, run.attack, None, f"not run: {ENDED[cause]}"))
            continue
        scene.budget.observer.attack(f"{run.attack.title}, {kind.replace('_', ' ')} control", position, len(plan))
        try:
            judged[id(run)], entry = _CONTROLS[kind](judged[id(run)], scene, len(plan) - position)
        except LeakauditError as error:
            entry = _entry(kind, run.attack, None, f"not run: {error.message}")
        entries.append(entry)
        scene.budget.observer.result(run.attack.title, f"{kind.replace('_', ' ')} control: {entry.detail}")
    return judged, entries


def _plan(runs: Sequence[Run], level: Level) -> list[tuple[Kind, Run]]:
    """Which controls of which attacks, the cheapest first."""
    ran = [run for run in runs if run.outcomes and not run.attack.upper_bound]
    if level == "none" or not ran:
        return []
    claiming = [run for run in ran if run.claims]
    questioned = ran if level == "full" else claiming
    strongest = (
        [max(claiming, key=lambda run: (run.attack.family == "optimisation", run.strength))] if claiming else ran
    )
    kinds: tuple[Kind, ...] = ("negative", "prior_only")
    plan: list[tuple[Kind, Run]] = [(kind, run) for kind in kinds for run in questioned]
    return plan + [("positive", run) for run in (ran if level == "full" else strongest)]


def _positive(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    attack = run.attack if run.claims else run.attack.within(run.iterations)
    found = _fitting_reference(attack, scene, hard=not run.claims and attack.family == "optimisation")
    if isinstance(found, str):
        return run, _entry("positive", attack, None, found)
    reference, target, victim, population = found
    measure = scene.measure.like(victim.observation.domain, population)
    seed = seed_of(scene.knowledge.seed, f"{attack.name} positive", 0)
    monitor = scene.budget.share(runs_left)
    outcome = attack_victim(attack, target, victim, measure, seed, monitor, scene.memory)
    (score,), done = outcome.scores, outcome.reconstruction
    numbers = {"reference": reference.name, **scene.measure.numbers(score), "seconds": done.seconds}
    if attack.planned is not None:
        numbers |= {"iterations": done.iterations, "parameters": sum(p.numel() for p in target.parameters.values())}
    if done.cuts and not score.leaked:
        cut = ", ".join(cut.told for cut in done.cuts)
        return run, _entry("positive", attack, None, f"not decided: {cut}", numbers)
    did = "recovered" if score.leaked else f"did not recover ({score.reason})"
    detail = f"{did} the sample of the bundled network {reference.name!r}, {scene.measure.told_control(score)}"
    if attack.planned is not None:
        detail += f", after {done.iterations} iterations"
    return run, _entry("positive", attack, score.leaked, detail, numbers)


def _fitting_reference(attack: Attack, scene: Scene, *, hard: bool) -> tuple[Reference, Target, Victim, Batch] | str:
    """The first bundled network that the attack applies to, with one victim; or why there is none.

    Where an attack recovered the samples themselves, any network will do; otherwise it is to be as hard as the case.
    """
    device = next(iter(scene.target.parameters.values())).device
    classes = max(2, scene.target.classes)
    why = "there is none"
    for reference in _ordered_references(attack, scene, hard=hard):
        if hard:
            size = sum(parameter.numel() for parameter in scene.target.parameters.values())
            reference = reference.like(scene.domain.shape, classes, size)
        target = reference_target(reference, scene.domain, classes).to(device)
        population = synthetic_batch(target, target.domain, REFERENCE_SAMPLES, 1)
        plain = scene.protocol.privately(None)
        protocol = replace(plain, batch_size=1, mode=target.mode, shared_statistics="none")
        undefended = replace(scene.knowledge, seed=0, defences=())
        victim = observe_victim(target, population.subset([0]), protocol, target.domain, undefended, 0)
        refusal = attack.refusal(*victim.attacked_by(attack, target))
        if refusal is None:
            return reference, target, victim, population
        why = refusal.reason
    return f"no bundled network fits this attack: {why}"


def _ordered_references(attack: Attack, scene: Scene, *, hard: bool) -> list[Reference]:
    """What the attack names itself first; of the rest, if it is to be hard, those of the model's kind."""
    wanted = attack.positive_control
    ordered = sorted(scene.domain.references, key=lambda r: wanted.index(r.name) if r.name in wanted else len(wanted))
    if not hard:
        return ordered
    convolves = _convolves(scene.target)
    return sorted(ordered, key=lambda r: (r.name not in wanted, r.convolves != convolves))


def _convolves(target: Target) -> bool:
    """Whether the model under audit has a convolution; so it is taken where its layers cannot be told."""
    try:
        return any(layer.kind == "convolution" for layer in inventory(target))
    except ModelError:
        return True


def _negative(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    outcomes = run.outcomes if scene.level == "full" else sorted(run.outcomes, key=lambda o: not o.leaked)
    pairs = [
        (o.victim, other.recovered)
        for o in outcomes
        for other in run.outcomes
        if other is not o and not scene.measure.alike(o.victim.batch, other.victim.batch)
    ]
    source = "another victim's update"
    if not pairs:
        other, source = _other_victim(outcomes[0].victim, scene)
        made = _recover(run.attack, scene, other, "negative", runs_left)
        if isinstance(made, str):
            return run, _entry("negative", run.attack, True, f"the attack refuses {source}: {made}")
        pairs = [(outcomes[0].victim, made)]
    scores = [score for victim, found in pairs for score in scene.measure.score(victim.batch, found)]
    passing = sum(score.leaked for score in scores)
    best = max(scores, key=lambda s: s.strength)
    closest = scene.measure.told_control(best)
    numbers = {"cases": len(scores), "passing_as_leak": passing, **scene.measure.numbers(best)}
    detail = f"{passing} of {len(scores)} reconstructions from {source} pass as a leak; the closest {closest}"
    survivor = _take_back(run) if passing else run
    return survivor, _entry("negative", run.attack, not passing, detail, numbers)


def _other_victim(victim: Victim, scene: Scene) -> tuple[Victim, str]:
    """A batch that is not the victim's: other samples of the file where there are any unlike it, else generated."""
    size = scene.protocol.batch_size
    taken = set(victim.batch.indices)
    free = [i for i, index in enumerate(scene.samples.indices) if index not in taken]
    order = torch.randperm(len(free), generator=cpu_generator(seed_of(scene.knowledge.seed, "negative", 0))).tolist()
    candidate = scene.samples.subset([free[i] for i in order[:size]]) if len(free) >= size else None
    if candidate is None or scene.measure.alike(victim.batch, candidate):
        candidate = synthetic_batch(scene.target, scene.domain, size, 2).subset(range(size))
        source = "the update of generated images"
    else:
        source = "the update of other samples"
    other = observe_victim(scene.target, candidate, scene.protocol, scene.domain, scene.knowledge, victim.number)
    return other, source


def _take_back(run: Run) -> Run:
    """The run without its leaks, but for those that prove themselves."""
    outcomes = [
        outcome if outcome.certified else replace(outcome, scores=[_unclaimed(score) for score in outcome.scores])
        for outcome in run.outcomes
    ]
    return replace(run, outcomes=outcomes)


def _unclaimed(score: SampleScore) -> SampleScore:
    return replace(score, leaked=False, reason=NEGATIVE_FAILED) if score.leaked else score


def _prior_only(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    ranked = sorted(run.outcomes, key=lambda o: not o.leaked)
    made: list[Any] = []
    refusal = ""
    for outcome in ranked if scene.level == "full" else ranked[:1]:
        generator = cpu_generator(seed_of(scene.knowledge.seed, "prior only", outcome.victim.number))
        nothing = without_information(outcome.victim.observation, generator)
        blind = replace(outcome.victim, observation=nothing, partial=())
        found = _recover(run.attack, scene, blind, "prior only", runs_left)
        if isinstance(found, str):
            refusal = found
        else:
            made.append(found)
    if not made:
        return run, _entry("prior_only", run.attack, True, f"makes nothing without the update: {refusal}")
    alone = [score for o in ranked for found in made for score in scene.measure.score(o.victim.batch, found)]
    passing, best = sum(s.leaked for s in alone), max(alone, key=lambda s: s.closeness)
    outcomes = [replace(o, scores=_with_floor(o, made)) for o in run.outcomes]
    told = scene.measure.told_control(best)
    detail = f"noise in place of the update gives {told}; {passing} of {len(alone)} pass as a leak"
    numbers = {"cases": len(alone), "passing_as_leak": passing, **scene.measure.numbers(best)}
    return replace(run, outcomes=outcomes), _entry("prior_only", run.attack, not passing, detail, numbers)


def _with_floor(outcome: Outcome, made: Sequence[Any]) -> list[SampleScore]:
    """Scores with one more floor; what an earlier control took back stays so."""
    again = outcome.measure.score(outcome.victim.batch, outcome.recovered, made)
    return [
        new if old.leaked else replace(new, leaked=False, reason=old.reason)
        for new, old in zip(again, outcome.scores, strict=True)
    ]


def without_information(observation: Observation, generator: Generator) -> Observation:
    """The observation with Gaussian noise of the same norm, tensor by tensor, for its update, and nothing beside."""
    update = {}
    for name, tensor in observation.update.items():
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        update[name] = noise * (tensor.norm() / noise.norm().clamp_min(1e-30))
    return replace(observation, update=update, start=None, batch_statistics=None)


def _recover(attack: Attack, scene: Scene, victim: Victim, purpose: str, runs_left: int) -> Any:
    """What the attack makes of a victim's observation as it is scored, or why it makes nothing, as text."""
    target, observation = victim.attacked_by(attack, scene.target)
    refusal = attack.refusal(target, observation)
    if isinstance(refusal, NotApplicable):
        return refusal.reason
    seed = seed_of(scene.knowledge.seed, f"{attack.name} {purpose}", 0)
    try:
        found = attack_once(attack, target, observation, seed, scene.budget.share(runs_left), scene.memory)
    except LeakauditError as error:
        return error.message
    result = scene.measure.recovered(scene.domain, found)
    return result if scene.measure.usable(result) else "its result is not finite"


def _entry(
    kind: Kind, attack: Attack, passed: bool | None, detail: str, numbers: dict[str, Any] | None = None
) -> ControlEntry:
    return ControlEntry(
        kind=kind, attack=attack.name, title=attack.title, passed=passed, detail=detail, numbers=numbers or {}
    )


_CONTROLS: dict[Kind, Callable[[Run, Scene, int], tuple[Run, ControlEntry]]] = {
    "positive": _positive,
    "negative": _negative,
    "prior_only": _prior_only,
}
