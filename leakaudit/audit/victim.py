"""One batch under attack: what the attacker sees of it, and what an attack made of that.

The pipeline's side of the wall: a :class:`Victim` holds the private batch, and hands attacks an observation only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.certificate import Certificate, certify
from leakaudit.attacks.reading.records import Records, distinct_records
from leakaudit.audit.environment import seed_of
from leakaudit.audit.memory import Memory, attack_once, attack_together_once
from leakaudit.client import observe as client
from leakaudit.client.batch import Batch
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.defences.base import Defence, adapted
from leakaudit.document.schema import AuxiliaryEntry
from leakaudit.document.status import AuxiliarySource
from leakaudit.domains.base import Domain
from leakaudit.matching.generator import OwnGenerator
from leakaudit.observation import Observation
from leakaudit.protocols.base import Protocol
from leakaudit.reconstruction import Monitor, Reconstruction
from leakaudit.scoring.base import Measure, SampleScore
from leakaudit.target.dropout import Steps
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess, Task

WARM_START_RESIDUAL = 0.5
"""A closed-form result that explains less of the update than this is no better a start than noise; chosen, not
measured."""
ALONE = 64
"""Samples that a generator makes without any update, the closest of which is a floor; chosen, as many as the samples
that stand for an attacker's own at least (`leakaudit.audit.auxiliary`)."""

ONE_CLASS = (
    "it assumed one class per sample, but the client's labels are class probabilities, so that no guess of it "
    "regenerates the update: an attack that finds the labels as well may show more"
)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What holds for every victim of an audit.

    Args:
        seed: Of the audit; clients and label inference draw from seeds of their own made from it.
        defences: What clients do to their updates, in this order; the attacker knows.
        auxiliary: Samples (N, *shape) that an attacker of threat model D learns from, in the unit of the batch's, or
            ``None``.
        origin: Where they come from; by default the user named them.
        generator: The user's own generator of similar samples, or ``None``.
        statistics: Whether the threat model lets attackers use BatchNorm statistics that the client shares.
    """

    seed: int = 0
    defences: tuple[Defence, ...] = ()
    auxiliary: Tensor | None = None
    statistics: bool = True
    origin: AuxiliaryEntry | None = None
    generator: OwnGenerator | None = None

    def learning(self, samples: Tensor, origin: AuxiliaryEntry) -> Knowledge:
        """The same, with samples for attackers of threat model D."""
        return replace(self, auxiliary=samples, origin=origin)

    def held_by(self, attack: Attack) -> AuxiliaryEntry | None:
        """What an attack of threat model D holds, for the document: samples, or the user's generator."""
        if attack.uses_generator and self.generator is not None:
            return AuxiliaryEntry(source=AuxiliarySource.GENERATOR, samples=ALONE)
        return self.learnt_from if attack.uses_auxiliary else None

    @property
    def learnt_from(self) -> AuxiliaryEntry | None:
        """What the auxiliary samples are, for the document."""
        if self.auxiliary is None or self.origin is not None:
            return self.origin
        return AuxiliaryEntry(source=AuxiliarySource.GIVEN, samples=len(self.auxiliary))


@dataclass(frozen=True, eq=False)
class Victim:
    """One batch under attack, with what the attacker sees of it.

    Args:
        number: Of the batch within the audit.
        batch: Private samples; of a recorded update perhaps only their number is known.
        observation: What the attacker sees.
        guess: Labels inferred from it.
        masks: Dropout masks that the client drew, by step and layer.
        knowledge: What holds for every victim.
        records: How many distinct records the update shows, where it does.
        partial: Incomplete closed-form results that attacks made so far; see :meth:`after`.
        model: What its client trained, where that is not the model under audit but one with other weights.
    """

    number: int
    batch: Batch
    observation: Observation
    guess: LabelGuess
    masks: Steps = ()
    knowledge: Knowledge = field(default_factory=Knowledge)
    records: Records | None = None
    partial: tuple[Reconstruction, ...] = ()
    model: Target | None = None

    def after(self, attack: Attack, reconstruction: Reconstruction) -> Victim:
        """The victim as later attacks find it, with an incomplete closed-form result.

        A complete one is not handed on, so that later attacks count.
        """
        incomplete = not reconstruction.exact and reconstruction.residual < WARM_START_RESIDUAL
        if attack.family == "closed form" and incomplete:
            return replace(self, partial=(*self.partial, reconstruction))
        return self

    def attacked_by(self, attack: Attack, target: Target) -> tuple[Target, Observation]:
        """The model and the observation as this attack gets them, see :meth:`seen_by`.

        Every attack is told of every defence; which of them it works through, it declares.
        """
        return adapted(self.model or target, self.seen_by(attack), self.knowledge.defences)

    def known_by(self, attack: Attack) -> list[Defence]:
        """The client's defences that an attack works through."""
        return [defence for defence in self.knowledge.defences if defence.known_to(attack.adapts)]

    def seen_by(self, attack: Attack) -> Observation:
        """The observation before the attacker makes use of knowing the defences.

        Auxiliary samples go to who learns from them and the generator to who searches it, which is threat model D,
        BatchNorm statistics to who uses them, which is threat model E, and the client's masks only for a declared upper
        bound. Optimisation attacks start from the best incomplete closed-form result, chosen by its residual, unless
        they are defined to work unaided.
        """
        seen = replace(self.observation, threat_model=attack.threat_model)
        if not (attack.uses_statistics and self.knowledge.statistics):
            seen = replace(seen, batch_statistics=None)
        elif seen.batch_statistics:
            seen = replace(seen, threat_model="E")
        if attack.soft_labels and self.guess.soft is not None and seen.labels is not None:
            seen = replace(seen, labels=self.guess.soft.to(seen.labels.device))
        if attack.family == "optimisation" and self.partial:
            seen = replace(seen, start=min(self.partial, key=lambda r: r.residual).inputs)
        if attack.unaided:
            seen = replace(seen, labels=None, label_source="none", errors=None, open_labels=False, start=None)
        if attack.uses_auxiliary:
            seen = replace(seen, auxiliary=self.knowledge.auxiliary)
        if attack.uses_generator:
            seen = replace(seen, generator=self.knowledge.generator)
        return replace(seen, masks=self.masks) if attack.upper_bound else seen


@dataclass(frozen=True, eq=False)
class Outcome:
    """One attack on one victim.

    Args:
        victim: The batch.
        reconstruction: What the attack returned.
        certificate: Evidence without ground truth, or ``None`` where it could not be computed.
        recovered: The reconstruction as the measure scores it, on the CPU: pixels in 0..1 (B, C, H, W), or texts.
        scores: Per sample; none where nobody has the samples.
        seed: Of the attack.
        measure: What scored it.
        task: What the labels are.
        alone: What the attack's generator makes without any update, as the measure scores it: a floor.
    """

    victim: Victim
    reconstruction: Reconstruction
    certificate: Certificate | None
    recovered: Any
    scores: list[SampleScore]
    seed: int
    measure: Measure[Any]
    task: Task
    alone: tuple[Any, ...] = ()

    @property
    def leaked(self) -> bool:
        """Whether any sample leaked: by its score, or where nobody has the samples by proving itself."""
        return any(score.leaked for score in self.scores) or (not self.victim.batch.known and any(self.proved))

    @property
    def proved(self) -> tuple[bool, ...]:
        """Which samples of the reconstruction (B,) prove themselves, without the private ones.

        All of a certified reconstruction; otherwise those that the attack's own check confirmed. Where nobody knows the
        order of the samples the check rests on bounds that were chosen, and proves nothing.
        """
        own = None if self.victim.observation.protocol.unrepeatable else self.reconstruction.confirmed
        confirmed = [False] * len(self.reconstruction.inputs) if own is None else own.tolist()
        return tuple(self.certified or row for row in confirmed)

    @property
    def certified(self) -> bool:
        """Whether the reconstruction proves itself."""
        return self.certificate is not None and self.certificate.exact and bool(self.certificate.unique)


def observe_victim(
    target: Target,
    batch: Batch,
    protocol: Protocol,
    domain: Domain,
    knowledge: Knowledge,
    number: int,
    recorded: RecordedUpdate | None = None,
    model: Target | None = None,
) -> Victim:
    """Compute the update of a batch, or take the recorded one, and infer its labels from it.

    Args:
        target: The model under audit.
        batch: Private samples.
        protocol: How their update is made.
        domain: What a sample is.
        knowledge: What holds for every victim.
        number: Of the batch within the audit.
        recorded: What a real client sent.
        model: What that client trained, where that is not the model under audit.

    Raises:
        NoTraceError: The update is zero.
    """
    seed = knowledge.seed
    target = model or target
    observation, masks = client.observe_step(
        target, batch, protocol, domain, seed_of(seed, "client", number), knowledge.defences, recorded
    )
    _, known = adapted(target, observation, knowledge.defences)
    informed = replace(known, update=observation.update)
    guess = target.task.infer(target, informed, cpu_generator(seed_of(seed, "labels", number)))
    labels = guess.labels.to(next(iter(observation.update.values())).device)
    errors = None if guess.errors is None else guess.errors.to(labels.device)
    seen = replace(observation, labels=labels, label_source="inferred", errors=errors, open_labels=guess.open)
    count = distinct_records(target, informed)
    return Victim(number, batch, seen, guess, masks, knowledge, count, model=model)


def attack_victim(
    attack: Attack,
    target: Target,
    victim: Victim,
    measure: Measure[Any],
    seed: int,
    monitor: Monitor,
    memory: Memory,
) -> Outcome:
    """Run an attack on a victim, certify and score what it made."""
    reconstruction = attack_once(attack, *victim.attacked_by(attack, target), seed, monitor, memory)
    return outcome_of(attack, target, victim, measure, seed, reconstruction, monitor)


def attack_together(
    attack: Attack,
    target: Target,
    victims: Sequence[Victim],
    measure: Measure[Any],
    seeds: Sequence[int],
    monitor: Monitor,
    memory: Memory,
) -> list[Outcome] | None:
    """Run an attack on several victims in one optimisation, which a stop may cut to the first of them.

    ``None`` where the attack wants them in turn.
    """
    seen = [victim.attacked_by(attack, target) for victim in victims]
    if any(model is not target for model, _ in seen):
        return None  # an adapted model differs by victim
    if len({(o.protocol, *o.update) for _, o in seen}) > 1:
        return None  # recorded clients have other numbers of samples, or share other tensors
    if len({None if o.labels is None else o.labels.dim() for _, o in seen}) > 1:
        return None  # soft labels beside classes
    found = attack_together_once(attack, target, [o for _, o in seen], seeds, monitor, memory)
    if found is None:
        return None
    together = zip(victims, seeds, found, strict=False)
    return [outcome_of(attack, target, victim, measure, seed, result, monitor) for victim, seed, result in together]


def outcome_of(
    attack: Attack,
    target: Target,
    victim: Victim,
    measure: Measure[Any],
    seed: int,
    reconstruction: Reconstruction,
    monitor: Monitor,
) -> Outcome:
    """Certify and score what an attack made of a victim; its certificate ends where its run's time is over."""
    if target.task.softened(victim.batch.labels, reconstruction.labels):
        reconstruction = replace(reconstruction, notes=(*reconstruction.notes, ONE_CLASS))
    found = measure.recovered(victim.observation.domain, reconstruction)
    alone = _alone(attack, victim, measure)
    scores = measure.score(victim.batch, found, alone)
    certificate = _certificate(attack, target, victim, reconstruction, monitor)
    return Outcome(victim, reconstruction, certificate, found, scores, seed, measure, target.task, alone)


def _alone(attack: Attack, victim: Victim, measure: Measure[Any]) -> tuple[Any, ...]:
    """What the generator of an attack makes of random latents, whatever the update is; nothing without one."""
    own, domain = victim.knowledge.generator, victim.observation.domain
    if not attack.uses_generator or own is None:
        return ()
    made = own.drawn(ALONE, domain, cpu_generator(seed_of(victim.knowledge.seed, "generator alone", 0)))
    return (measure.recovered(domain, Reconstruction(made, victim.guess.labels, float("nan"))),)


def _certificate(
    attack: Attack, target: Target, victim: Victim, reconstruction: Reconstruction, monitor: Monitor
) -> Certificate | None:
    """Evidence that needs no ground truth; uniqueness, the dear half, only for residuals at float level."""
    if victim.masks and reconstruction.masks is None:
        return None
    if reconstruction.incomplete or victim.observation.protocol.unrepeatable:
        return None
    target, observation = victim.attacked_by(attack, target)
    quick = certify(target, observation, reconstruction.play, uniqueness=False)
    if not quick.exact or reconstruction.masks:
        return quick
    return certify(target, observation, reconstruction.play, over=monitor.over)
