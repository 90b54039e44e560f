"""LA95x: what weakens this report itself, so that a clean result is not mistaken for safety."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.document.counting import count
from leakaudit.document.schema import ControlEntry
from leakaudit.document.status import ControlStatus
from leakaudit.findings.effort import efforts
from leakaudit.findings.registry import Evidence, Found, rule, samples_of


@rule(
    "LA950",
    "An attack does not work here",
    worst="low",
    remedy="Raise the attack's budget (--preset standard, more iterations with --set, no --time-budget) until its "
    "positive control passes; a failure of an attack that recovers nothing anywhere says nothing about the model.",
)
def positive_failed(evidence: Evidence) -> Iterator[Found]:
    """The positive control failed: with the same budget the attack did not recover a sample that is known to leak.

    The control attacks a bundled reference network of the same input shape, whose updates are known to give samples
    away. An attack that fails there is broken, or its budget is too small, and its failure on your model is no
    evidence. If no attack passes, the verdict is INCONCLUSIVE and the exit code 5.
    """
    yield from _failed(evidence, "positive")


@rule(
    "LA951",
    "An attack scores on the update of another batch",
    worst="low",
    remedy="Give a larger batch file, so that floors and distractors cover what the samples have in common, or remove "
    "near-duplicates; do not rely on this attack's leaks until the negative control passes.",
)
def negative_failed(evidence: Evidence) -> Iterator[Found]:
    """The negative control failed: run on the update of a different batch, the attack still passed as a leak.

    Whatever it reproduces then does not come from the victim's update: the samples are alike, or the criterion is too
    weak for this data. Leaks of this attack are not counted as shown.
    """
    yield from _failed(evidence, "negative")


@rule(
    "LA952",
    "The prior alone passes as a leak",
    worst="low",
    remedy="Lower the weight of the prior (--set ATTACK.tv_weight=…, other auxiliary images), or give a larger batch "
    "file; do not rely on this attack's leaks until the prior-only control passes.",
)
def prior_only_failed(evidence: Evidence) -> Iterator[Found]:
    """The prior-only control failed: without information from the update, the attack's prior passed as a leak.

    A prior over images can draw something plausible from nothing. If that already comes close to a private sample,
    the attack's result on the real update is no evidence of a leak.
    """
    yield from _failed(evidence, "prior_only")


def _failed(evidence: Evidence, kind: str) -> Iterator[Found]:
    failed: list[ControlEntry] = [c for c in evidence.controls if c.kind == kind and c.status is ControlStatus.FAILED]
    for control in failed:
        yield Found(
            "low", "measured", f"{control.title or control.attack}: {control.detail}.", {"attack": control.attack}
        )


@rule(
    "LA953",
    "Attacks were cut short",
    worst="low",
    remedy="Run again without --time-budget (or with a larger one), and let the audit end.",
)
def budget_exhausted(evidence: Evidence) -> Iterator[Found]:
    """The time budget or an interruption ended attacks before they were done, or kept some from starting.

    A stronger attack was available and was not given its time, so what was not shown may still be there.
    """
    runs = [(a.title, a.results, a.cut) for a in evidence.attacks]
    besides = [(a.beside, a.title) for a in evidence.attacks if a.beside is not None and not a.beside.in_ledger]
    runs += [(f"{rival.title} beside {title}", rival.results, rival.cut) for rival, title in besides]
    cuts = {(title, cut.stopped) for title, results, _ in runs for result in results for cut in result.cuts}
    stopped, fewer = (sorted(title for title, ended in cuts if ended is early) for early in (True, False))
    unrun = sorted({title for title, _, cut in runs if cut})
    if stopped or fewer or unrun or evidence.partial:
        parts = [f"stopped early: {', '.join(stopped)}"] if stopped else []
        parts += [f"given fewer iterations than their preset has: {', '.join(fewer)}"] if fewer else []
        parts += [f"not run on every victim: {', '.join(unrun)}"] if unrun else []
        text = "; ".join(parts) or evidence.partial
        found = {"stopped": stopped, "fewer_iterations": fewer, "not_run": unrun}
        yield Found("low", "certified", f"{text[:1].upper()}{text[1:]}.", found)


@rule(
    "LA958",
    "An attack was not tried well enough to say something",
    worst="low",
    remedy="Give it more time (no --time-budget, or a larger one), its controls (--controls quick) or a larger preset.",
)
def little_tried(evidence: Evidence) -> Iterator[Found]:
    """Nothing leaked by this attack, but it ran too little for that to say something.

    The failure of an attack is evidence only where the attack works: where it recovered a sample that is known to leak,
    from a network of the kind and size of yours and with no more iterations than it had on your model (LA950 says where
    it did not), where it ran at least a tenth of its plan on the victims, where its objective fell, and where its
    ladder of local steps reached as many as the clients take. Otherwise the verdict is INCONCLUSIVE and the exit code
    5, unless something else leaked.
    """
    leaking = {a.name for a, _, s in samples_of(evidence.attacks) if s.leaked}
    broken = {c.attack for c in evidence.controls if c.kind == "positive" and c.status is ControlStatus.FAILED}
    for effort in efforts(evidence):
        if effort.counts and effort.attack.name not in leaking | broken:
            yield Found("low", "certified", f"{effort.told}, and {effort.missing}.", {"attack": effort.attack.name})


@rule(
    "LA954",
    "Few distractors to tell samples apart",
    worst="low",
    remedy="Give a batch file with more than 100 samples, or more images of the same kind with --distractors.",
)
def few_distractors(evidence: Evidence) -> Iterator[Found]:
    """Re-identification had fewer than 100 images to confuse the sample with.

    A reconstruction counts only if its own sample is the nearest of all. Among a handful, chance or a shared colour is
    enough to be nearest; among a hundred images of the same kind it is not. Missing ones are replaced by augmentations
    (flips, turns, shifts, enlarged details) of the images at hand, which are not quite the same test.
    """
    samples = [s for _, _, s in samples_of(evidence.attacks) if s.rank_among is not None and s.distractors_wanted]
    real = [(s.rank_among or 0) - s.augmented for s in samples]
    wanted = max((s.distractors_wanted for s in samples), default=0)
    if real and min(real) <= wanted:
        yield Found(
            "low",
            "certified",
            f"{min(real) - 1} other images of the same kind were at hand, fewer than {wanted}; augmentations "
            "of them made up the number.",
            {"others": min(real) - 1},
        )


@rule(
    "LA955",
    "No attack ran",
    worst="low",
    remedy="Read the reasons in the ledger: choose other attacks (--attack), give what is missing (--auxiliary), or "
    "allow more (--threat-model E).",
)
def no_attack(evidence: Evidence) -> Iterator[Found]:
    """No attack that a real attacker could run was applicable and allowed, so nothing was tested.

    Yardsticks that are given the client's secrets (the true dropout masks) do not count.
    """
    if not any(a.results for a in evidence.attacks if not a.upper_bound):
        refused = {a.name: a.reason for a in evidence.attacks if a.reason}
        yield Found("low", "certified", "No attack was applicable and allowed; the ledger says why.", refused)


@rule(
    "LA956",
    "The batch file holds near-duplicates",
    worst="low",
    remedy="Remove near-duplicates from the batch file (frames of one video, copies, augmented versions), so that a "
    "reconstruction can point at one sample.",
)
def near_duplicates(evidence: Evidence) -> Iterator[Found]:
    """Attacked samples have near-duplicates in the file, so they are identified only up to these.

    Images that share 96 per cent of a sample's variance are left out of its re-identification: no reconstruction could
    be asked to tell them apart. A leak is still a leak, of one of them.
    """
    counts = {s.index: s.near_duplicates for _, _, s in samples_of(evidence.attacks) if s.near_duplicates}
    if counts:
        yield Found(
            "low",
            "certified",
            f"The batch file has near-duplicates of {count(len(counts), 'attacked sample')}, up to "
            f"{max(counts.values())} of one: identified up to near-duplicates.",
            {"samples": sorted(counts), "most": max(counts.values())},
        )


@rule(
    "LA959",
    "Recorded rounds were left out",
    worst="low",
    remedy="Read the reasons in the report (protocol.left_out): scan the rounds of each model and each way of training "
    "on their own.",
)
def rounds_left_out(evidence: Evidence) -> Iterator[Found]:
    """Some rounds of the folder do not go with the model or with the others, so they were not attacked.

    A round is left out where its tensors have other names or shapes than the model's, where its client trained with
    other settings than that of the first round, or where its files are damaged. What is said of the rest says nothing
    of these.
    """
    if evidence.protocol.left_out:
        out, total = len(evidence.protocol.left_out), len(evidence.protocol.left_out) + len(evidence.protocol.rounds)
        yield Found("low", "certified", f"{out} of {total} recorded rounds were not audited.", {"rounds": out})


@rule(
    "LA957",
    "Claims without controls",
    worst="low",
    remedy="Run again with --controls quick (the default) and enough time for them.",
)
def uncontrolled(evidence: Evidence) -> Iterator[Found]:
    """An attack claims a leak, but its negative or prior-only control was not run.

    Without them a lucky prior, or samples that resemble each other, cannot be told from a leak. Confidence is capped
    at *estimated*, unless the reconstruction is certified, which needs no control.
    """
    claims = {a.name: a.title for a, v, s in samples_of(evidence.attacks) if s.leaked and not (v.certified or s.proved)}
    missing = [title for name, title in claims.items() if not evidence.controlled(name)]
    if missing:
        yield Found("low", "certified", f"No controls were run for {', '.join(missing)}.", {"attacks": missing})
