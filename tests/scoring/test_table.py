"""Scores of rows against hand-counted cases, and floors that a reconstruction must beat."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.schema import Column
from leakaudit.domains.table import Table
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, measure_for
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.table import DRAWS, ReadRows, RowScore, TableMeasure
from tests.tables import COLUMNS, TABLE, private, rows


def measure() -> TableMeasure:
    return TableMeasure(private(), TABLE)


def read(values: Tensor) -> ReadRows:
    cells = TABLE.cells(values.flatten(1))
    return ReadRows(cells, torch.ones_like(cells, dtype=torch.bool))


def scored(values: Tensor, size: int = 3) -> list[RowScore]:
    found = measure().score(private().subset(range(size)), read(values))
    assert all(isinstance(score, RowScore) for score in found)
    return found  # type: ignore[return-value]


def test_rows_in_another_order_are_matched_and_leak() -> None:
    batch = private().subset(range(3))
    scores = scored(batch.images[[2, 0, 1]])
    assert [score.reconstruction for score in scores] == [1, 2, 0]
    for score in scores:
        assert score.metrics == {"cell_accuracy": 1.0, "row_exact": 1.0, "number_error": 0.0, "skill": 1.0}
        assert score.leaked
        assert score.identification.identified
        assert score.identification.distractors >= 119


def test_a_number_is_right_within_a_third_of_a_standard_deviation() -> None:
    truth = private().images[:1]
    for off, right in ((0.31, 1.0), (0.33, 5 / 6)):
        guess = truth.clone()
        guess[..., 0] += off * 12
        (score,) = scored(guess, 1)
        assert score.match.cell_accuracy == pytest.approx(right)
        assert score.match.number_error == pytest.approx(off / 3, rel=1e-3)


def test_a_category_is_right_if_it_is_the_same() -> None:
    guess = private().images[:1].clone()
    guess[..., 3:8] = guess[..., 3:8].roll(1, -1)
    (score,) = scored(guess, 1)
    assert score.right == (True, True, False, True, True, True)
    assert score.match.row_exact == 0
    assert measure().told(score) == "5 of its 6 cells right"


def test_the_floors() -> None:
    batch = private().subset(range(4))
    floors = measure().floors(batch, 0)
    assert set(floors) == {"uniform", "modes", "marginals", "rows"}
    assert all(0 < floor.cell_accuracy < 1 for floor in floors.values())
    assert measure().floors(batch, 0) == floors
    one = measure().floors(private().subset([0]), 0)["uniform"].cell_accuracy
    assert floors["uniform"].cell_accuracy != one


def test_other_rows_of_the_file_do_not_leak() -> None:
    everything = private()
    own = TableMeasure(everything, TABLE)
    batch = everything.subset(range(8))
    for seed in range(DRAWS):
        others = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[:8] + 20
        assert not any(score.leaked for score in own.score(batch, read(everything.images[others])))


def test_rows_of_other_people_do_not_leak_where_the_file_holds_the_batch_alone() -> None:
    """Of three kinds of people who are alike in most columns: made-up rows do not tell how alike real ones are."""
    columns = tuple(Column(f"column {i}", "category", levels=("a", "b", "c", "d")) for i in range(20))
    table = Table.of(columns)
    for seed in range(DRAWS):
        generator = torch.Generator().manual_seed(seed)
        kinds = torch.randint(3, (16, 1), generator=generator).expand(16, 20)
        usual = torch.rand(16, 20, generator=generator) < 0.7
        cells = torch.where(usual, kinds, torch.randint(4, (16, 20), generator=generator)).double()
        values = torch.nn.functional.one_hot(cells[:8].long(), 4).float().reshape(8, *table.shape)
        batch = Batch(values, torch.zeros(8, dtype=torch.long), tuple(range(8)))
        found = ReadRows(cells[8:], torch.ones(8, 20, dtype=torch.bool))
        assert not any(score.leaked for score in TableMeasure(batch, table).score(batch, found))


def test_whole_rows_leak_where_the_file_holds_the_batch_alone() -> None:
    batch = private().subset(range(8))
    near = batch.images.clone()
    near[:5, ..., 3:8] = near[:5, ..., 3:8].roll(1, -1)
    alone = TableMeasure(batch, TABLE).score(batch, read(near))
    assert [score.match.row_exact for score in alone if score.leaked] == [1, 1, 1]
    twins = batch.images.clone()
    twins[1] = twins[0]
    twins[1, ..., 3:8] = twins[1, ..., 3:8].roll(1, -1)
    twin = replace(batch, images=twins)
    assert all(score.leaked for score in TableMeasure(twin, TABLE).score(twin, read(twins))), "however alike"
    assert "too few other rows" in alone[0].reason


def test_a_reason_says_that_it_is_below_the_floor() -> None:
    (score,) = scored(rows(1, seed=77), 1)
    assert not score.leaked
    assert "floor" in score.reason


def test_what_is_as_near_to_another_row_is_not_identified() -> None:
    batch = private(2)
    twin = batch.images[:1].clone()
    twin[..., 0] += 12  # differs in one cell
    both = batch.subset([0, 1])
    both.images[1] = twin[0]
    guess = twin.clone()
    guess[..., 0] += 12
    own = TableMeasure(both, TABLE, 1)
    found = own.identify(both, 0, read(guess), 0)
    assert found.identified is False
    copy = both.subset([0, 0])
    assert TableMeasure(copy, TABLE, 1).identify(copy, 0, read(copy.images), 0).near_duplicates == 1


def test_cells_that_were_not_read_are_wrong() -> None:
    inputs = TABLE.encode(private().images[:1])
    seen = torch.ones_like(inputs, dtype=torch.bool)
    seen[..., 4] = False  # one entry of the second category
    found = measure().recovered(TABLE, Reconstruction(inputs, torch.zeros(1).long(), 0.0, read=seen))
    assert found.read.tolist() == [[True, True, False, True, True, True]]
    (score,) = measure().score(private().subset([0]), found)
    assert isinstance(score, RowScore)
    assert score.right == (True, True, False, True, True, True)
    row = measure().entry(private().subset([0]), score, found)["table"]
    assert row["recovered"][2] is None
    assert row["wrong"] == [2]
    assert row["names"][0] == "age"


def test_what_an_attack_makes_without_the_update_is_a_floor() -> None:
    batch = private().subset([0])
    (score,) = measure().score(batch, read(batch.images), [read(batch.images)])
    assert not score.leaked
    assert score.floor_metrics["prior_only"]["cell_accuracy"] == 1


def test_the_measure_of_the_domain_takes_the_criterion() -> None:
    own = measure_for(TABLE, private(20), Judging(criterion=LeakCriterion(distractors=50)))
    assert len(own.made_up) == 31
    assert len(own.like(TABLE, private(60)).made_up) == 0
    assert own.alike(private(20).subset([3]), private(20).subset([4, 3]))
    assert not own.alike(private(20).subset([3]), private(20).subset([4, 5]))
    assert len(COLUMNS) == 6


SKEWED = Table.of([Column(f"c{place}", "category", levels=("usual", "rare", "rarest")) for place in range(12)])


def skewed(count: int, seed: int) -> Batch:
    """Rows of which most have the usual level in most columns, as census data have."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor([0.75, 0.2, 0.05]).expand(count * 12, 3)
    levels = torch.multinomial(shares, 1, generator=generator).view(count, 12)
    return Batch(SKEWED.rows(levels.double())[:, None, None, :].float(), torch.zeros(count).long(), tuple(range(count)))


def test_rows_of_other_people_do_not_leak_by_luck_however_many_there_are() -> None:
    for seed in range(5):
        own = TableMeasure(skewed(100, seed), SKEWED)
        batch, others = skewed(100, seed).subset(range(16)), skewed(16, 1000 + seed)
        found = own.recovered(SKEWED, Reconstruction(others.images, others.labels, 0.0))
        assert not any(score.leaked for score in own.score(batch, found)), seed


def test_one_row_of_many_and_the_whole_batch_are_no_luck() -> None:
    own = TableMeasure(skewed(100, 0), SKEWED)
    batch = skewed(100, 0).subset(range(16))
    exact = own.recovered(SKEWED, Reconstruction(batch.images, batch.labels, 0.0))
    telling = [score.position for score in own.score(batch, exact) if score.leaked]
    assert len(telling) >= 12, "rows that are nobody else's"
    one = skewed(16, 2000).images.clone()
    rarest = max(range(16), key=lambda place: float(batch.images[place, ..., 2::3].sum()))
    one[0] = batch.images[rarest]
    found = own.recovered(SKEWED, Reconstruction(one, batch.labels, 0.0))
    leaked = [score.position for score in own.score(batch, found) if score.leaked]
    assert rarest in leaked
    assert len(leaked) <= 2
