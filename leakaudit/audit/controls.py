"""Controls: the same attacks, with the same settings, where the answer is known.

======== =====================================================================================================
positive A bundled network of the same input shape that is known to leak (`leakaudit.audit.references`), one generated
         sample, or two for an attack that needs an order. For an optimisation attack that claims nothing it is of the
         kind and size of the model under audit, and the attack has as many iterations as on the victim that got the
         fewest. If the sample is not recovered, the attack is "not working here" and its failure elsewhere says
         nothing; where time ended the control first, nothing is decided.
negative The update of a different batch, scored against the victim. It must fall to the floors. With several
         victims these are the reconstructions at hand, exchanged; with one, a further run.
prior    No update: every tensor replaced by Gaussian noise of the same norm, the inferred labels kept, no warm
only     start, no shared statistics. What comes out is the attack's prior; it becomes a floor of that attack.
ladder   Of several local steps: what the positive control asks, and the same of generated samples through the model
         under audit, at 1, 2, 5, 10, … steps (`leakaudit.audit.ladder`).
======== =====================================================================================================

``quick`` runs the negative and the prior-only control of every attack that claims a leak, on one victim, and the
positive control of the strongest of them; where nothing leaked, or every claim was taken back, the positive control of
every attack that ran, but for what was only tried in passing. The strongest attack climbs the ladder.
``full`` runs the first three for every attack and victim. An attack that refuses to run without information passes.
A control that takes longer than the time budget leaves is not run: it would fail, or pass, for want of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator

from leakaudit.attacks.base import cpu_generator
from leakaudit.audit.budget import SLACK
from leakaudit.audit.environment import seed_of
from leakaudit.audit.known import on_reference
from leakaudit.audit.ladder import ladder_on_model, ladder_on_reference
from leakaudit.audit.memory import attack_once
from leakaudit.audit.references import synthetic_batch
from leakaudit.audit.scene import ENDED, Kind, Run, Scene, control_entry
from leakaudit.audit.victim import Outcome, Victim, observe_victim
from leakaudit.document.schema import ControlEntry
from leakaudit.errors import AuditError, LeakauditError
from leakaudit.observation import Observation
from leakaudit.reconstruction import Monitor, NotApplicable
from leakaudit.report.wording import seconds
from leakaudit.scoring.base import SampleScore

NEGATIVE_FAILED = "the attack's negative control failed"


def control(runs: Sequence[Run], scene: Scene) -> tuple[list[Run], list[ControlEntry]]:
    """Run the controls, and take back the claims that do not survive them.

    Returns:
        The runs, scored against their prior-only floor and without the uncertified leaks of attacks whose negative
        control failed; and what each control showed.
    """
    plan = _plan(runs, scene)
    judged, entries = _carried_out(plan, {id(run): run for run in runs}, scene)
    if any(run.claims for run in runs) and not any(run.claims for run in judged.values()):
        entries = [shown for shown in entries if shown.kind != "positive"]  # of an attack that was believed to work
        plan = [(name, run) for name, run in _plan(list(judged.values()), scene) if name == "positive"]
        judged, more = _carried_out(plan, {id(run): run for run in judged.values()}, scene)
        return list(judged.values()), [*entries, *more]
    return [judged[id(run)] for run in runs], entries


def _carried_out(
    plan: Sequence[Planned], runs: dict[int, Run], scene: Scene
) -> tuple[dict[int, Run], list[ControlEntry]]:
    """Run controls; the runs as these leave them, by the key that they had, and what each control showed."""
    judged = dict(runs)
    entries: list[ControlEntry] = []
    for position, (name, run) in enumerate(plan):
        own = _CONTROLS[name]
        if cause := scene.budget.spent():
            entries.append(control_entry(own.kind, run.attack, None, f"not run: {ENDED[cause]}"))
            continue
        if own.kind != "negative":  # which scores what was recovered, and runs nothing
            scene.budget.work.begin(run.attack)
        place = f"{own.title} ({position + 1} of {len(plan)})"
        scene.budget.observer.attack(f"{run.attack.title}, {place}", 0, 1)
        try:
            judged[id(run)], shown = own.run(judged[id(run)], scene, len(plan) - position)
        except LeakauditError as error:
            shown = control_entry(own.kind, run.attack, None, f"not run: {error.message}")
        entries.append(shown)
        scene.budget.observer.result(run.attack.title, f"{own.title}: {shown.detail}")
    return judged, entries


def _plan(runs: Sequence[Run], scene: Scene) -> list[Planned]:
    """Which controls of which attacks, the cheapest first."""
    ran = [run for run in runs if run.outcomes and not run.attack.upper_bound]
    if scene.level == "none" or not ran:
        return []
    claiming = [run for run in ran if run.claims]
    questioned = [run for run in (ran if scene.level == "full" else claiming) if _scored(run).outcomes]
    full = [run for run in ran if not run.attack.in_passing]
    best = [run for run in claiming if run in full] or claiming or full or ran
    strongest = max(best, key=lambda run: (run.attack.family == "optimisation", run.strength))
    asked = [strongest] if claiming and scene.level != "full" else full or ran
    plan = [(name, run) for name in ("negative", "prior_only") for run in questioned]
    plan += [("positive", run) for run in asked]
    ladders = ("reference_ladder", "model_ladder") if scene.protocol.steps > 1 and not scene.protocol.withheld else ()
    return plan + [(name, strongest) for name in ladders]


def _scored(run: Run) -> Run:
    """The run on victims whose samples somebody has: others are not scored, and claim only what proves itself."""
    return replace(run, outcomes=[outcome for outcome in run.outcomes if outcome.victim.batch.known])


def _positive(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    attack = run.attack if run.claims else run.attack.within(run.iterations)
    known = on_reference(attack, scene, hard=not run.claims and attack.family == "optimisation")
    if isinstance(known, str):
        return run, control_entry("positive", attack, None, known)
    monitor = scene.budget.share(runs_left) if run.claims else _monitor(run, scene, runs_left)
    outcome = known.attacked(attack, scene, "positive", monitor)
    score, done = max(outcome.scores, key=lambda score: (score.leaked, score.strength)), outcome.reconstruction
    name = known.reference.name if known.reference else ""
    numbers = {"reference": name, **scene.measure.numbers(score), "seconds": done.seconds}
    if attack.planned is not None:
        size = sum(parameter.numel() for parameter in known.target.parameters.values())
        numbers |= {"iterations": done.iterations, "parameters": size}
    if done.cuts and not score.leaked:
        cut = ", ".join(cut.told for cut in done.cuts)
        return run, control_entry("positive", attack, None, f"not decided: {cut}", numbers)
    did = "recovered" if score.leaked else f"did not recover ({score.reason})"
    what = "the sample" if len(outcome.scores) == 1 else f"a sample of {len(outcome.scores)}"
    detail = f"{did} {what} of {known.place}, {scene.measure.told_control(score)}"
    if attack.planned is not None:
        detail += f", after {done.iterations} iterations"
    return run, control_entry("positive", attack, score.leaked, detail, numbers)


def _monitor(run: Run, scene: Scene, runs_left: int) -> Monitor:
    """Of a control that runs the attack as on the victims: it has at least the time that their longest run took.

    Raises:
        AuditError: There is not so much.
    """
    taken, left = max((o.reconstruction.seconds for o in run.outcomes), default=0.0), scene.budget.left
    if left is not None and left < taken:
        raise AuditError(f"it takes about {seconds(taken)}, and the time budget leaves {seconds(max(0.0, left))}")
    return scene.budget.lasting(None if left is None else max(left / max(1, runs_left), min(left, SLACK * taken)))


def _negative(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    outcomes = sorted(_scored(run).outcomes, key=lambda o: scene.level != "full" and not o.leaked)
    pairs = [
        (o.victim, other.recovered)
        for o in outcomes
        for other in run.outcomes
        if other is not o and not scene.measure.alike(o.victim.batch, other.victim.batch)
    ]
    source = "another victim's update"
    if not pairs:
        other, source = _other_victim(outcomes[0].victim, scene)
        made = _recover(run, scene, other, "negative", runs_left)
        if isinstance(made, str):
            return run, control_entry("negative", run.attack, True, f"the attack refuses {source}: {made}")
        pairs = [(outcomes[0].victim, made)]
    alone = outcomes[0].alone  # the generator is that of all victims
    scores = [score for victim, found in pairs for score in scene.measure.score(victim.batch, found, alone)]
    passing = sum(score.leaked for score in scores)
    best = max(scores, key=lambda s: s.strength)
    closest = scene.measure.told_control(best)
    numbers = {"cases": len(scores), "passing_as_leak": passing, **scene.measure.numbers(best)}
    detail = f"{passing} of {len(scores)} reconstructions from {source} pass as a leak; the closest {closest}"
    survivor = _take_back(run) if passing else run
    return survivor, control_entry("negative", run.attack, not passing, detail, numbers)


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
    ranked = sorted(_scored(run).outcomes, key=lambda o: not o.leaked)
    made: list[Any] = []
    refusal = ""
    for outcome in ranked if scene.level == "full" else ranked[:1]:
        generator = cpu_generator(seed_of(scene.knowledge.seed, "prior only", outcome.victim.number))
        nothing = without_information(outcome.victim.observation, generator)
        blind = replace(outcome.victim, observation=nothing, partial=())
        found = _recover(run, scene, blind, "prior only", runs_left)
        if isinstance(found, str):
            refusal = found
        else:
            made.append(found)
    if not made:
        return run, control_entry("prior_only", run.attack, True, f"makes nothing without the update: {refusal}")
    alone = [score for o in ranked for found in made for score in scene.measure.score(o.victim.batch, found, o.alone)]
    passing, best = sum(s.leaked for s in alone), max(alone, key=lambda s: s.closeness)
    outcomes = [replace(o, scores=_with_floor(o, made)) for o in run.outcomes]
    told = scene.measure.told_control(best)
    detail = f"noise in place of the update gives {told}; {passing} of {len(alone)} pass as a leak"
    numbers = {"cases": len(alone), "passing_as_leak": passing, **scene.measure.numbers(best)}
    return replace(run, outcomes=outcomes), control_entry("prior_only", run.attack, not passing, detail, numbers)


def _with_floor(outcome: Outcome, made: Sequence[Any]) -> list[SampleScore]:
    """Scores with one more floor; what an earlier control took back stays so."""
    again = outcome.measure.score(outcome.victim.batch, outcome.recovered, [*outcome.alone, *made])
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


def _recover(run: Run, scene: Scene, victim: Victim, purpose: str, runs_left: int) -> Any:
    """What the attack makes of a victim's observation as it is scored, or why it makes nothing, as text.

    Raises:
        AuditError: There is not the time to run it as on the victims.
    """
    attack = run.attack
    target, observation = victim.attacked_by(attack, scene.target)
    refusal = attack.refusal(target, observation)
    if isinstance(refusal, NotApplicable):
        return refusal.reason
    seed = seed_of(scene.knowledge.seed, f"{attack.name} {purpose}", 0)
    monitor = _monitor(run, scene, runs_left)
    try:
        found = attack_once(attack, target, observation, seed, monitor, scene.memory)
    except LeakauditError as error:
        return error.message
    result = scene.measure.recovered(scene.domain, found)
    return result if scene.measure.usable(result) else "its result is not finite"


@dataclass(frozen=True, eq=False)
class _Control:
    """A kind of control, its title while it runs, and how it is run."""

    kind: Kind
    title: str
    run: Callable[[Run, Scene, int], tuple[Run, ControlEntry]]


_CONTROLS = {
    "positive": _Control("positive", "positive control", _positive),
    "negative": _Control("negative", "negative control", _negative),
    "prior_only": _Control("prior_only", "prior only control", _prior_only),
    "reference_ladder": _Control("ladder", "ladder of local steps on a bundled network", ladder_on_reference),
    "model_ladder": _Control("ladder", "ladder of local steps on this model", ladder_on_model),
}
Planned = tuple[str, Run]
"""A name of the table above, and the run of the attack that it is a control of."""
