"""The attacker's side never imports what can hold a private sample, and its results do not depend on one."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import torch

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.registry import available
from leakaudit.audit.references import synthetic_batch
from leakaudit.audit.victim import Knowledge, Victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.domains.references import VOCABULARY
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction, SilentMonitor
from leakaudit.target.target import Target
from tests.attacks.networks import attacked, short

PACKAGE = Path(leakaudit.__file__).parent
PRIVATE = ("leakaudit.client", "leakaudit.scoring", "leakaudit.audit.victim")
"""Rooms, and the module that pairs a batch with what is seen of it; nothing below a public room may reach them."""
PUBLIC = ("attacks", "matching", "recursion", "domains", "tasks", "protocols", "defences", "risk", "target")
FILES = sorted(file for room in PUBLIC for file in (PACKAGE / room).rglob("*.py"))
FILES += [PACKAGE / "observation.py", PACKAGE / "reconstruction.py"]


@cache
def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def reachable(file: Path) -> set[str]:
    """Modules of the package that importing this one loads, found by reading imports."""
    seen: set[str] = set()
    queue = [file]
    while queue:
        for name in imported(queue.pop()):
            if not name.startswith("leakaudit") or name in seen:
                continue
            seen.add(name)
            stem = PACKAGE.parent / Path(*name.split("."))
            queue += [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    return seen


def private(names: set[str]) -> set[str]:
    return {name for name in names if any(name == room or name.startswith(f"{room}.") for room in PRIVATE)}


def test_there_is_something_to_check() -> None:
    assert len(FILES) >= 100


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_attacker_cannot_reach_private_samples(file: Path) -> None:
    assert not private(reachable(file))


def test_the_check_can_fail() -> None:
    found = private(reachable(PACKAGE / "audit" / "pipeline.py"))
    assert {name.split(".")[1] for name in found} == {"client", "scoring", "audit"}


BELOW = {"attacks": tuple(room for room in PUBLIC if room != "attacks"), "audit": PUBLIC}
"""Rooms by which others must not be reached: what is built on them, not what they build on."""


@pytest.mark.parametrize(("upper", "room"), [(upper, room) for upper, rooms in BELOW.items() for room in rooms])
def test_a_lower_room_does_not_reach_an_upper_one(upper: str, room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        found = {name for name in reachable(file) if name.startswith(f"leakaudit.{upper}")}
        assert not found, f"{file} reaches {sorted(found)[0]}"


def run(name: str, target: Target, victim: Victim) -> Reconstruction:
    attack = short(name)
    attacked_target, observation = victim.attacked_by(attack, target)
    return attack(attacked_target, observation, cpu_generator(3), SilentMonitor())


def destroy(private: Batch) -> None:
    """Permute the private samples and put others in their place, in the very tensors that the client used."""
    private.images.copy_(private.images.flip(0))
    generator = torch.Generator().manual_seed(9)
    if private.images.is_floating_point():
        private.images.copy_(torch.rand(private.images.shape, generator=generator))
    else:
        private.images.copy_(torch.randint(VOCABULARY, private.images.shape, generator=generator))
    private.labels.copy_((private.labels.flip(0) + 1) % 5)


def refuse_difference(name: str, target: Target, victim: Victim) -> None:
    """Attack, destroy the private batch, attack again: every bit must be the same."""
    before = run(name, target, victim)
    original = victim.batch.images.clone()
    destroy(victim.batch)
    assert not torch.equal(original, victim.batch.images)
    after = run(name, target, victim)
    assert torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.labels, after.labels)
    assert repr((before.match, before.residual)) == repr((after.match, after.residual))  # not a number equals itself
    if before.tokens is not None and after.tokens is not None:
        assert torch.equal(before.tokens.found, after.tokens.found)
    assert [p.objective for p in before.history] == [p.objective for p in after.history]
    for one, two in zip(before.snapshots, after.snapshots, strict=True):
        assert torch.equal(one.inputs, two.inputs)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", sorted(available()))
def test_replacing_the_private_batch_changes_no_bit_of_what_an_attack_makes(
    name: str, size: int, space: Images
) -> None:
    found = attacked(name, space, size)
    if found is None:
        assert size > 1 or name == "dlfa", f"no network for {name}"  # a single sample has no order
        pytest.skip(f"{name} does not apply to a batch of {size} samples on any bundled network")
    refuse_difference(name, *found)


@pytest.mark.parametrize("name", sorted(available()))
def test_the_same_of_local_steps(name: str, space: Images) -> None:
    found = attacked(name, space, 2, local=True)
    if found is None:
        pytest.skip(f"{name} does not apply to local steps on any bundled network")
    refuse_difference(name, *found)


def test_attacks_on_local_steps_are_among_them(space: Images) -> None:
    assert all(attacked(name, space, 2, local=True) is not None for name in ("ig", "dia", "wia", "sme", "dlfa"))


def test_the_bit_identity_check_can_fail(space: Images) -> None:
    """An observation of the other batch gives another result, so equality above is not a property of the attack."""
    found = attacked("ig", space, 1)
    assert found is not None
    target, victim = found
    other = observe_victim(target, synthetic_batch(target, space, 8, 2).subset([1]), FedSGD(1), space, Knowledge(), 0)
    assert not torch.equal(run("ig", target, victim).inputs, run("ig", target, other).inputs)
