"""The linear-programming reader: every row of batches, whatever the activation, and nothing that is no row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.linear import first_layer_or_reason
from leakaudit.attacks.linear_program import LinearProgram, ProgramSettings
from leakaudit.attacks.reading.confirm import class_errors, own_errors
from leakaudit.attacks.reading.first_layer import Entry
from leakaudit.attacks.reading.polytope import polytope
from leakaudit.audit.victim import Knowledge, Victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable, Reconstruction
from leakaudit.target.target import Target
from tests.conftest import make_target
from tests.tables import TABLE, private, table_target


def victim_of(target: Target, batch: Batch) -> Victim:
    return observe_victim(target, batch, FedSGD(len(batch), target.mode), target.domain, Knowledge(), 0)


def attacked(target: Target, batch: Batch, programs: int = 300) -> tuple[Reconstruction, Victim]:
    victim = victim_of(target, batch)
    attack = LinearProgram(ProgramSettings(programs=programs))
    assert attack.refusal(target, victim.observation) is None
    return attack(target, victim.observation, cpu_generator(0)), victim


def same_rows(found: Reconstruction, batch: Batch, target: Target) -> int:
    """How many rows of a batch are among those that were found."""
    truth = target.domain.encode(batch.images).flatten(1)
    near = torch.cdist(truth.double(), found.inputs.flatten(1).double()) < 1e-3
    return int(near.any(1).sum())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_every_row_is_read_and_the_update_proves_it(size: int, activation: type[nn.Module]) -> None:
    target = table_target(activation=activation)
    batch = private().subset(range(size))
    found, _ = attacked(target, batch)
    assert same_rows(found, batch, target) == size
    assert found.exact
    assert found.residual < 1e-5
    assert sorted(found.labels.tolist()) == sorted(batch.labels.tolist())


def test_rows_with_the_same_categories_are_told_apart() -> None:
    """Their difference is open to every vertex of the batch; only their own errors settle it."""
    batch = private().subset(range(6))
    batch.images[1, ..., :] = batch.images[0]
    batch.images[1, ..., 0] += 9.0
    batch.images[1, ..., 8] -= 7.0
    target = table_target(units=60)
    found, victim = attacked(target, batch)
    assert same_rows(found, batch, target) == 6
    assert found.exact
    entry = first_layer_or_reason(target, victim.observation)
    assert isinstance(entry, Entry)
    space = polytope(victim.observation, entry)
    truth = np.linalg.lstsq(
        np.concatenate([space.basis.T, space.one[None]]),
        np.concatenate([target.domain.encode(batch.images).flatten(1).numpy().T, np.ones((1, 6))]),
        rcond=None,
    )[0].T
    face = space.refined(truth[0])
    assert face is not None
    assert len(face.free) == 1


def test_a_row_that_the_batch_holds_twice_is_returned_twice() -> None:
    batch = private().subset([3, 5, 5, 8])
    batch.labels[2] = batch.labels[1]
    found, _ = attacked(table_target(), batch)
    assert found.exact
    assert (
        sum(torch.equal(a, b) for a in found.inputs for b in found.inputs) == 6
    )  # four with themselves, two crosswise


def test_pictures_with_black_pixels_are_vertices_too() -> None:
    torch.manual_seed(0)
    target = make_target(nn.Sequential(nn.Flatten(), nn.Linear(36, 30), nn.Sigmoid(), nn.Linear(30, 3)), (1, 6, 6), 3)
    pixels = (torch.rand((4, 1, 6, 6), generator=cpu_generator(1)) - 0.6).clamp_min(0)
    batch = Batch(pixels, torch.tensor([0, 1, 2, 0]), tuple(range(4)))
    assert isinstance(target.domain, Images)
    found, _ = attacked(target, batch, 500)
    assert same_rows(found, batch, target) == 4
    assert found.exact


def test_noise_in_place_of_the_update_gives_no_row() -> None:
    target, batch = table_target(), private().subset(range(4))
    victim = victim_of(target, batch)
    generator = cpu_generator(2)
    for tensor in victim.observation.update.values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    found = LinearProgram(ProgramSettings(programs=60))(target, victim.observation, cpu_generator(0))
    assert "0 of 4 samples recovered" in found.notes[0]
    assert not found.exact


def test_what_is_confirmed_is_right_where_not_everything_is_found() -> None:
    target, batch = table_target(units=24), private().subset(range(14))
    found, _ = attacked(target, batch, 12)
    confirmed = int(found.notes[0].split()[0])
    truth = target.domain.encode(batch.images).flatten(1).double()
    near = torch.cdist(found.inputs.flatten(1).double()[:confirmed], truth).min(1).values
    assert bool((near < 1e-3).all())


def test_own_errors_in_one_pass_are_those_one_by_one() -> None:
    target = table_target()
    victim = victim_of(target, private().subset([0]))
    entry = first_layer_or_reason(target, victim.observation)
    assert isinstance(entry, Entry)
    inputs = TABLE.encode(private().images[:3])
    single = torch.stack([class_errors(target, entry, x, [0, 1]) for x in inputs])
    assert torch.allclose(own_errors(target, entry, inputs, [0, 1]), single, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "size", "reason"),
    [
        (lambda: table_target(units=5), 5, "5 units and 22 entries are too few for a batch of 5"),
        (
            lambda: make_target(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)), (1, 8, 8), 2),
            1,
            "no fully",
        ),
    ],
)
def test_what_it_refuses(build, size: int, reason: str) -> None:  # type: ignore[no-untyped-def]
    target = build()
    count = (size, *target.domain.shape)
    batch = (
        private().subset(range(size))
        if target.domain == TABLE
        else Batch(torch.rand(count), torch.zeros(size).long(), (0,))
    )
    refused = LinearProgram(ProgramSettings()).refusal(target, victim_of(target, batch).observation)
    assert isinstance(refused, NotApplicable)
    assert reason in refused.reason


@pytest.mark.parametrize("programs", [4, 6, 8, 12])
def test_rows_that_settling_rejects_are_not_confirmed(programs: int) -> None:
    """Rows that share all categories leave something open until all others are known."""
    batch = private().subset(range(8))
    for row, change in ((1, 9.0), (2, -6.0)):
        batch.images[row, ..., :] = batch.images[0]
        batch.images[row, ..., 0] += change
        batch.images[row, ..., 8] -= change / 2
    target = table_target(units=24)
    found, _ = attacked(target, batch, programs)
    confirmed = int(found.notes[0].split()[0])
    truth = target.domain.encode(batch.images).flatten(1).double()
    near = torch.cdist(found.inputs.flatten(1).double()[:confirmed], truth).min(1).values
    assert bool((near < 1e-3).all())
