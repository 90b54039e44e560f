"""Where the answer is known: generated samples, through a bundled network or through the model under audit.

The samples are generated, so they are nobody's, and what an attack makes of their update can be scored like any other.
No defence is applied: what is asked is whether the attack works, not whether the defence does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.audit.environment import seed_of
from leakaudit.audit.references import labelled, reference_target, synthetic_batch
from leakaudit.audit.scene import Scene
from leakaudit.audit.victim import Outcome, Victim, attack_victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.domains.references import Reference
from leakaudit.errors import ModelError
from leakaudit.protocols.base import Protocol
from leakaudit.reconstruction import Monitor
from leakaudit.scoring.base import Measure
from leakaudit.target.inventory import inventory
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

REFERENCE_SAMPLES = 120
"""Generated samples beside a victim; chosen, more than the hundred distractors that a leak has to be told from."""


@dataclass(frozen=True, eq=False)
class Known:
    """A victim whose samples were generated.

    Args:
        target: The model behind the update.
        victim: The samples and what is seen of them.
        measure: As strict as the audit's own, of the generated samples.
        reference: The bundled network; ``None`` for the model under audit.
    """

    target: Target
    victim: Victim
    measure: Measure[Any]
    reference: Reference | None = None

    @property
    def place(self) -> str:
        """Where the samples went through, in words."""
        return "this model" if self.reference is None else f"the bundled network {self.reference.name!r}"

    def attacked(self, attack: Attack, scene: Scene, purpose: str, monitor: Monitor) -> Outcome:
        """What an attack makes of it."""
        seed = seed_of(scene.knowledge.seed, f"{attack.name} {purpose}", 0)
        return attack_victim(attack, self.target, self.victim, self.measure, seed, monitor, scene.memory)


def on_reference(attack: Attack, scene: Scene, *, hard: bool, steps: int | None = None) -> Known | str:
    """The first bundled network that the attack applies to, with as few samples as it needs; or why there is none.

    Args:
        attack: The attack.
        scene: Of the controls.
        hard: Whether the network is to be of the kind and size of the model under audit; where an attack recovered the
            samples themselves, any will do.
        steps: Local steps of its client; by default what so few samples take in as many epochs as the audit's clients.
    """
    device = next(iter(scene.target.parameters.values())).device
    task = (
        scene.target.task.main
        if scene.target.task.label_shape and not scene.target.task.places
        else SingleLabel(max(2, scene.target.classes))
    )
    why = "there is none"
    for reference in _ordered(attack, scene, hard=hard):
        if hard:
            size = sum(parameter.numel() for parameter in scene.target.parameters.values())
            reference = reference.like(scene.domain.shape, task.outputs, size)
        target = reference_target(reference, scene.domain, task).to(device)
        population = _population(attack, scene, target, REFERENCE_SAMPLES, 1)
        protocol = scene.protocol.of_samples(attack.control_samples)
        protocol = replace(_taking(protocol, steps), mode=target.mode, shared_statistics="none")
        known = _known(target, population, protocol, scene, 0, reference)
        refusal = attack.refusal(*known.victim.attacked_by(attack, target))
        if refusal is None:
            return known
        why = refusal.reason
    return f"no bundled network fits this attack: {why}"


def on_model(attack: Attack, scene: Scene, *, steps: int | None = None) -> Known | str:
    """The model under audit with generated samples, as many as a client has; or why the attack does not apply.

    Args:
        attack: The attack.
        scene: Of the controls.
        steps: Local steps of its client, for which fewer samples or epochs may do; by default those of the protocol.
    """
    protocol = _taking(scene.protocol, steps)
    count = max(REFERENCE_SAMPLES, protocol.batch_size)
    population = _population(attack, scene, scene.target, count, 3)
    known = _known(scene.target, population, protocol, scene, scene.knowledge.seed, None)
    refusal = attack.refusal(*known.victim.attacked_by(attack, scene.target))
    return known if refusal is None else refusal.reason


def _population(attack: Attack, scene: Scene, target: Target, count: int, seed: int) -> Batch:
    """Generated samples for a target: look-alikes, or for an attack with a generator what that makes."""
    own, domain = scene.knowledge.generator, target.domain
    if not attack.uses_generator or own is None:
        return synthetic_batch(target, domain, count, seed)
    generator = cpu_generator(seed)
    return labelled(target, domain.decode(own.drawn(count, domain, generator)), generator)


def _taking(protocol: Protocol, steps: int | None) -> Protocol:
    plain = protocol.privately(None)
    return plain if steps is None else plain.taking(steps)


def _known(
    target: Target, population: Batch, protocol: Protocol, scene: Scene, seed: int, reference: Reference | None
) -> Known:
    undefended = replace(scene.knowledge, seed=seed, defences=())
    batch = population.subset(range(protocol.batch_size))
    domain = target.domain if reference else scene.domain
    victim = observe_victim(target, batch, protocol, domain, undefended, 0)
    return Known(target, victim, scene.measure.like(victim.observation.domain, population), reference)


def _ordered(attack: Attack, scene: Scene, *, hard: bool) -> list[Reference]:
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
