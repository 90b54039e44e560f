"""Rows of a table: the schema file, the space of rows, and the snap."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize

from leakaudit.domains.images import Images
from leakaudit.domains.schema import read_schema
from leakaudit.domains.table import Table, onto_simplex
from leakaudit.domains.tokens import Tokens
from leakaudit.errors import UsageError
from tests.tables import COLUMNS, SIZE, TABLE, rows, write_schema


def test_a_schema_file_is_read(tmp_path: Path) -> None:
    assert read_schema(write_schema(tmp_path / "s.toml")) == COLUMNS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no columns"),
        ("x = 1\n[[column]]\nname = 'a'", "unknown key 'x'"),
        ("[[column]]\nname = 'a'\nkind = 'text'", "column 1, 'a', is of kind 'text'"),
        ("[[column]]\nname = 'a'\nkind = 'category'", "category without levels"),
        ("[[column]]\nname = 'a'\nlevels = ['x', 'x']", "a level twice"),
        ("[[column]]\nname = 'a'\nlow = 3\nhigh = 3", "runs from 3 to 3"),
        ("[[column]]\nname = 'a'\nmean = 3", "a mean or a std alone"),
        ("[[column]]\nname = 'a'\nmean = 3\nstd = 0", "std = 0"),
        ("[[column]]\nname = 'a'\nlow = -1\nhigh = 4\nmean = 38\nstd = 13", "mean 38, outside its range -1 to 4"),
        ("[[column]]\nname = 'a'\nlow = 'x'", "low = 'x', expected a number"),
        ("[[column]]\nname = 'a'\nbins = 3", "unknown key 'bins'"),
        ("[[column]]\nname = 'a'\n[[column]]\nname = 'a'", "two columns are named 'a'"),
        ("[[column", "is not TOML"),
    ],
)
def test_what_is_no_schema_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_schema(tmp_path / "s.toml")
    assert "\n" not in error.value.message
    assert error.value.hint


def test_a_missing_schema_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read --schema"):
        read_schema(tmp_path / "none.toml")


def test_levels_may_be_counted(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[[column]]\nname = 'a'\nlevels = 3\n")
    assert read_schema(tmp_path / "s.toml")[0].levels == ("0", "1", "2")


def test_values_and_inputs_are_inverse_and_cells_are_read_off() -> None:
    values = rows(50)
    assert torch.allclose(TABLE.decode(TABLE.encode(values)), values, atol=1e-4)
    cells = TABLE.cells(values.flatten(1))
    assert cells.shape == (50, len(COLUMNS))
    assert torch.equal(TABLE.rows(cells).float(), values.flatten(1))
    assert TABLE.blocks == ((1, 3), (3, 8), (9, 21))
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE
    assert hash(Table.of(COLUMNS)) == hash(TABLE)


def test_a_finished_row_is_one_of_the_schema() -> None:
    inputs = 3 * torch.randn((20, *TABLE.shape), generator=torch.Generator().manual_seed(1))
    snapped = TABLE.finish(inputs)
    assert torch.equal(TABLE.finish(snapped), snapped)
    for start, stop in TABLE.blocks:
        block = snapped[..., start:stop]
        assert torch.equal(block.sum(-1), torch.ones_like(block.sum(-1)))
        assert torch.equal(block.argmax(-1), inputs[..., start:stop].argmax(-1))
    low, high = TABLE.box(inputs)
    assert bool(((snapped >= low) & (snapped <= high)).all())


def test_the_projection_is_the_nearest_point_of_the_simplex() -> None:
    free = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = onto_simplex(free[None], torch.ones((1, 5), dtype=torch.bool))[0]
    nearest = minimize(
        lambda x: ((x - free.numpy()) ** 2).sum(), [0.2] * 5, bounds=[(0, 1)] * 5, tol=1e-14,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
    )  # fmt: skip
    assert found.numpy() == pytest.approx(nearest.x, abs=1e-6)


def test_projected_rows_stay_on_their_simplexes() -> None:
    inputs = 2 * torch.randn((3, 4, *TABLE.shape), generator=torch.Generator().manual_seed(3))
    inside = TABLE.project(inputs)
    for start, stop in TABLE.blocks:
        block = inside[..., start:stop]
        assert bool((block >= 0).all())
        assert torch.allclose(block.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(TABLE.project(inside), inside, atol=1e-5)


def test_a_schema_makes_a_table_of_a_vector_only() -> None:
    assert Images.plain((1, 1, SIZE)).with_columns(COLUMNS) == TABLE
    assert Images.plain((1, 1, SIZE), guessed=True).with_columns(COLUMNS) == TABLE
    assert Table.plain(SIZE).with_columns(COLUMNS) == TABLE
    with pytest.raises(UsageError, match="--schema is for tables"):
        Images.plain((3, 8, 8)).with_columns(COLUMNS)
    with pytest.raises(UsageError, match="--schema is for tables"):
        Tokens.of(SIZE, 10).with_columns(COLUMNS)
    with pytest.raises(UsageError, match="its 6 columns make 22 numbers, the model takes 30"):
        Table.plain(30).with_columns(COLUMNS)
