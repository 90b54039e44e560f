"""Several inputs as one flat row: taken apart and put together without loss, each part by its own domain."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.domains.schema import Column
from leakaudit.domains.several import Member, Several, several_of
from leakaudit.domains.table import Table
from leakaudit.errors import UsageError
from leakaudit.scoring.base import specs_of
from tests.several import BESIDE_SIGNAL, SEVERAL
from tests.tables import COLUMNS, TABLE

ALL = pytest.mark.parametrize("domain", [SEVERAL, BESIDE_SIGNAL], ids=lambda d: d.members[0].name)


@ALL
def test_it_hashes_and_pickles(domain: Several) -> None:
    again = pickle.loads(pickle.dumps(domain))
    assert again == domain
    assert hash(again) == hash(domain)


@ALL
def test_parts_and_rows_are_inverse(domain: Several) -> None:
    samples = domain.look_alikes(3, cpu_generator(0))
    assert samples.shape == (3, *domain.shape)
    parts = domain.split(samples)
    assert [tuple(part.shape[1:]) for part in parts] == [member.domain.shape for member in domain.members]
    assert torch.equal(domain.joined(parts), samples)
    starts = samples.expand(2, *samples.shape)  # several starts of a batch
    assert torch.equal(domain.joined(domain.split(starts)), starts)


@ALL
def test_every_part_is_in_its_own_range(domain: Several) -> None:
    wild = 1000 * torch.randn((4, *domain.shape), generator=cpu_generator(0))
    found = domain.finish(wild)
    for member, part, whole in zip(domain.members, domain.split(found), domain.split(wild), strict=True):
        assert torch.equal(part, member.domain.finish(whole))
    low, high = domain.box(found)
    assert low.shape == high.shape == domain.shape
    moved = wild.clone()
    domain.projection(moved)(moved)
    assert bool(((moved >= low - 1e-6) & (moved <= high + 1e-6)).all())
    start, stop = domain.blocks[0]
    assert torch.allclose(moved[..., start:stop].sum(-1), torch.ones(4, 1, 1), atol=1e-5)
    assert torch.equal(domain.finish(found), found)


@ALL
def test_values_and_inputs_are_those_of_the_parts(domain: Several) -> None:
    made = domain.look_alikes(5, cpu_generator(1))
    assert torch.allclose(domain.encode(domain.decode(made)), made, atol=1e-5)
    total = sum(float(m.domain.roughness(p)) for m, p in zip(domain.members, domain.split(made), strict=True))
    assert float(domain.roughness(made)) == pytest.approx(total)
    assert total > 0


def test_channels_that_a_model_takes_last_are_turned_for_it_alone() -> None:
    sample = BESIDE_SIGNAL.look_alikes(2, cpu_generator(0))
    given = BESIDE_SIGNAL.cast(sample)
    signal, row = BESIDE_SIGNAL.split(sample)
    assert torch.equal(given[..., : signal[0].numel()].flatten(1), signal.transpose(1, 2).flatten(1))
    assert torch.equal(given[..., signal[0].numel() :].flatten(1), row.flatten(1))
    assert torch.equal(BESIDE_SIGNAL.finish(BESIDE_SIGNAL.project(sample)), BESIDE_SIGNAL.finish(sample))


def test_a_schema_is_of_the_row_and_a_mean_of_the_picture() -> None:
    plain = Several.of([SEVERAL.members[0], Member("meta", Table.plain(TABLE.shape[-1]))])
    known = plain.with_columns(COLUMNS)
    assert known.members[1].domain == TABLE
    assert known.members[0] == plain.members[0]
    with pytest.raises(UsageError, match="its 1 columns make 1 numbers"):
        plain.with_columns([Column("one")])
    scaled = plain.normalised((0.1, 0.2, 0.3), (1.0,))
    assert scaled.normalisation[0] == (0.1, 0.2, 0.3)
    assert scaled.members[1] == plain.members[1]
    assert plain.assumption == plain.members[1].domain.assumption != ""


@ALL
def test_no_metric_has_the_same_name_in_two_parts(domain: Several) -> None:
    names = [spec.name for spec in specs_of(domain)]
    assert len(names) == len(set(names)) > 5


def test_for_another_model_the_parts_are_as_any_takes_them() -> None:
    assert not any(member.last for member in BESIDE_SIGNAL.on(SEVERAL).members)
    assert BESIDE_SIGNAL.inside("part") == BESIDE_SIGNAL
    assert several_of(BESIDE_SIGNAL) is BESIDE_SIGNAL
    with pytest.raises(ValueError, match="several inputs, not one that takes rows"):
        several_of(replace(TABLE))
