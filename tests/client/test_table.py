"""Files of rows: npz, CSV and Parquet, with a schema and without, and one clear line for what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leakaudit.client.batch import Batch
from leakaudit.client.readers import frame
from leakaudit.client.readers.base import Reading, reader_for
from leakaudit.domains.table import Table
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.load import load
from leakaudit.target.target import Target
from tests.tables import COLUMNS, SIZE, TABLE, module, private, rows, table_target, write_csv, write_npz


def plain_target() -> Target:
    return load(module())


def read(target: Target, source: Any, **how: Any) -> Batch:
    return reader_for(target, Reading(**how)).fitted(source)[1]


def test_encoded_rows_of_an_npz(tmp_path: Path) -> None:
    batch = read(table_target(), write_npz(tmp_path / "b.npz"))
    assert torch.allclose(batch.images, private(60).images, atol=1e-4)
    assert batch.labels.tolist() == private(60).labels.tolist()
    assert batch.sha256
    assert "standardised numbers" in batch.notes[0]


def test_numbers_in_the_unit_of_their_columns(tmp_path: Path) -> None:
    known = private(60)
    np.savez(tmp_path / "b.npz", x=known.images.flatten(1).numpy(), y=known.labels.numpy())
    batch = read(table_target(), tmp_path / "b.npz")
    assert torch.equal(batch.images, known.images)
    assert "unit of their columns" in batch.notes[0]


def test_a_csv_as_pandas_writes_it(tmp_path: Path) -> None:
    batch = read(table_target(), write_csv(tmp_path / "b.csv"))
    assert torch.allclose(batch.images, private(60).images, rtol=1e-6)
    assert batch.class_names == ("high", "low")
    assert [batch.class_names[label] for label in batch.labels[:2]] == ["low", "high"]


def test_a_csv_without_a_schema_is_guessed(tmp_path: Path) -> None:
    target, batch = reader_for(plain_target()).fitted(write_csv(tmp_path / "b.csv", 200))
    table = target.domain
    assert isinstance(table, Table)
    assert [column.kind for column in table.columns] == [column.kind for column in COLUMNS]
    assert set(table.columns[2].levels) == set(COLUMNS[2].levels)
    assert "guessed as 3 numbers and 3 categories in 19 entries" in table.assumption
    assert table.assumption in batch.notes


def test_encoded_rows_without_a_schema_are_guessed(tmp_path: Path) -> None:
    target, _ = reader_for(plain_target()).fitted(write_npz(tmp_path / "b.npz", 200))
    table = target.domain
    assert isinstance(table, Table)
    assert table.blocks == TABLE.blocks
    assert table.columns[5].high == 1
    assert table.columns[0].mean is None


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install leakaudit[tables]")
    from pyarrow import parquet

    known = private(60)
    cells = TABLE.cells(known.images.flatten(1)).T.tolist()
    columns = {
        c.name: [c.levels[int(x)] for x in own] if c.kind == "category" else own
        for c, own in zip(COLUMNS, cells, strict=True)
    }
    parquet.write_table(pyarrow.table({**columns, "y": known.labels.tolist()}), tmp_path / "b.parquet")
    batch = read(table_target(), tmp_path / "b.parquet")
    assert torch.equal(batch.images, known.images)


def test_parquet_without_its_reader_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="pyarrow") as error:
        read(table_target(), tmp_path / "b.parquet")
    assert "leakaudit[tables]" in error.value.hint


def test_tables_are_opened_in_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    monkeypatch.setattr(frame, "_columns", lambda path, size: ctypes.string_at(0))
    for name in ("b.csv", "b.parquet"):
        (tmp_path / name).write_bytes(b"a,label\n1,0\n")
        with pytest.raises(BatchError, match=r"crashes the library that opens it \(SIGSEGV\)"):
            read(table_target(), tmp_path / name)


def test_a_table_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(UsageError, match="named pipe"):
        read(table_target(), tmp_path / "b.csv")


def test_cells_that_all_differ_are_no_levels(tmp_path: Path) -> None:
    """A level each would be a matrix of 80 GB."""
    (tmp_path / "b.csv").write_text("\n".join(["name,label", *(f"n{n},{n % 2}" for n in range(100_000))]))
    with pytest.raises(BatchError, match="make 100000 numbers; the model takes 22"):
        read(plain_target(), tmp_path / "b.csv")


def test_a_table_of_labels_alone_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("label\n1\n0\n")
    with pytest.raises(BatchError, match="the model takes 22"):
        read(plain_target(), tmp_path / "b.csv")


def test_a_column_of_one_long_cell_is_refused(tmp_path: Path) -> None:
    """NumPy would give every cell the room of the longest: 60 kB of text would be 26 GB."""
    lines = ["age,label", f"{'9' * 130_000},0", *(f"{n % 10},0" for n in range(50_000))]
    (tmp_path / "b.csv").write_text("\n".join(lines))
    with pytest.raises(BatchError, match="asks for more memory than its content justifies"):
        read(table_target(), tmp_path / "b.csv")


def changed(place: tuple[int, int], value: float) -> tuple[np.ndarray, np.ndarray]:
    batch = private(20)
    inputs = TABLE.encode(batch.images).flatten(1).numpy()
    inputs[place] = value
    return inputs, batch.labels.numpy()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (changed((3, 2), 1.5), "the 2 entries of 'sex' in row 3 are no single level"),
        (changed((2, 0), 99.0), "age of row 2 is 1228, expected 17 to 90"),
        (changed((1, 4), np.nan), "numbers of row 1 are NaN"),
        ((np.zeros((4, 7)), np.zeros(4, int)), r"shape \(4, 7\), the model takes rows of 22 numbers"),
        ((np.array([["a"] * SIZE] * 4), np.zeros(4, int)), "dtype <U1"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(source: Any, message: str) -> None:
    with pytest.raises(BatchError, match=message) as error:
        read(table_target(), source)
    assert "\n" not in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("town 3", "town 99"), "place of row [0-9]+ is 'town 99', which is no level"),
        (("age,", "years,"), "no column 'age'"),
        (("income", "age"), "two columns are named 'age'"),
    ],
)
def test_a_csv_that_does_not_fit_the_schema(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "b.csv")
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(BatchError, match=message):
        read(table_target(), path)


def test_a_cell_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "b.csv")
    lines = path.read_text().splitlines()
    cells = lines[5].split(",")
    lines[5] = ",".join([cells[0], "", *cells[2:]])
    path.write_text("\n".join(lines))
    with pytest.raises(BatchError, match="age of row 4 is '', expected a number"):
        read(table_target(), path)


def test_columns_that_do_not_make_the_model_s_numbers(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"which make [0-9]+ numbers; the model takes 22") as error:
        read(plain_target(), write_csv(tmp_path / "b.csv", 4))
    assert "--schema" in error.value.hint


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UsageError):
            read(table_target(), path)


def test_a_vector_that_could_be_a_picture_is_a_table_where_its_rows_are_none(tmp_path: Path) -> None:
    """81 numbers make a picture of 9 by 9, unless they are negative, or come as a CSV."""
    torch.manual_seed(0)
    target = load(torch.nn.Linear(81, 2))
    labels = np.arange(30) % 2
    numbers = np.random.default_rng(0).normal(size=(30, 81))
    assert target.domain.kind == "images"
    assert reader_for(target).fitted((numbers, labels))[0].domain.kind == "table"
    assert reader_for(target).fitted((np.abs(numbers).clip(0, 1), labels))[0].domain.kind == "images"
    header = ",".join([*(f"c{i}" for i in range(81)), "label"])
    np.savetxt(tmp_path / "b.csv", np.c_[numbers, labels], delimiter=",", header=header, comments="")
    assert reader_for(target).fitted(tmp_path / "b.csv")[0].domain.kind == "table"


def test_options_about_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="--mean is for images"):
        reader_for(table_target()).refuse({"--mean": (0.5,)})


def test_a_batch_is_passed_on() -> None:
    batch = private(4)
    assert read(replace(table_target()), batch) is batch
    assert rows(2).shape == (2, 1, 1, SIZE)
