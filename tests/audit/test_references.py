"""The bundled networks leak: every attack that a scan runs recovers the generated sample of one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import available, create
from leakaudit.audit.memory import Memory
from leakaudit.audit.references import reference_target, synthetic_batch
from leakaudit.audit.victim import Knowledge, Victim, attack_victim, observe_victim
from leakaudit.domains.images import Images
from leakaudit.domains.references import REFERENCES, TEXT_REFERENCES, VOCABULARY
from leakaudit.domains.tokens import Tokens
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import SilentMonitor
from leakaudit.scoring.base import Measure, measure_for
from leakaudit.target.target import Target
from tests.attacks.networks import STEPS

ITERATIONS = {"ig": "200", "dia": "200", "wia": "200", "gradinversion": "300"}
SHAPES = ((3, 12, 12), (1, 8, 8))
CASES = [(name, shape) for name in sorted(set(available()) - {"gi-pip", "gias"}) for shape in SHAPES]
CASES = [case for case in CASES if case[0] not in STEPS]  # they read several steps: tests/attacks/test_steps.py
CASES = [case for case in CASES if case[0] != "tableak"]  # of tables: tests/attacks/test_tableak.py
CASES.remove(("gradinversion", SHAPES[0]))  # takes its 600 iterations


def fitting(attack: Attack, space: Images) -> tuple[Victim, Measure[Any], Target] | None:
    for reference in (*REFERENCES, *TEXT_REFERENCES):
        target = reference_target(reference, space if reference in REFERENCES else Tokens.of(9, VOCABULARY), 5)
        population = synthetic_batch(target, target.domain, 120, 1)
        protocol = FedSGD(1, target.mode)
        auxiliary = synthetic_batch(target, target.domain, 64, 7).images
        victim = observe_victim(
            target, population.subset([0]), protocol, target.domain, Knowledge(auxiliary=auxiliary), 0
        )
        if attack.refusal(target, victim.seen_by(attack)) is None:
            return victim, measure_for(target.domain, population), target
    return None


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_attack_recovers_a_bundled_sample(name: str, shape: tuple[int, int, int]) -> None:
    space = Images(shape, (0.5,) * shape[0], (0.25,) * shape[0])
    attack = create(name, "quick", {"iterations": ITERATIONS[name]} if name in ITERATIONS else None)
    found = fitting(attack, space)
    assert found is not None
    victim, scorer, target = found
    outcome = attack_victim(attack, target, victim, scorer, 0, SilentMonitor(), Memory())
    assert outcome.leaked, outcome.scores[0].reason


def test_a_reference_is_the_same_every_time() -> None:
    for reference in REFERENCES:
        one, two = (reference_target(reference, Images.plain((3, 10, 14)), 3) for _ in range(2))
        for name, tensor in one.parameters.items():
            assert torch.equal(tensor, two.parameters[name])


def test_generated_images_are_images(space: Images) -> None:
    target = reference_target(REFERENCES[0], space, 5)
    batch = synthetic_batch(target, space, 40, 3)
    assert batch.images.shape == (40, 3, 12, 12)
    assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1
    assert set(batch.labels.tolist()) == set(range(5))
    assert not torch.equal(batch.images, synthetic_batch(target, space, 40, 4).images)


def test_the_settings_decide(space: Images) -> None:
    """The same attack without effort recovers nothing, so the positive control can fail."""
    attack = create("ig", "quick", {"learning_rate": "1e-12", "search": "false"})
    found = fitting(attack, space)
    assert found is not None
    victim, scorer, target = found
    outcome = attack_victim(attack, target, victim, scorer, 0, SilentMonitor(), Memory())
    assert not outcome.leaked
