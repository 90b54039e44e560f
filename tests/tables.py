"""Small tables for every test: three numbers and three categories, a network over them, and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.client.batch import Batch
from leakaudit.domains.schema import Column
from leakaudit.domains.table import Table
from leakaudit.target.load import load
from leakaudit.target.target import Target

COLUMNS = (
    Column("age", "number", 17, 90, 40, 12),
    Column("sex", "category", levels=("m", "f")),
    Column("work", "category", levels=("none", "state", "own", "private", "other")),
    Column("hours", "number", 0, 100, 40, 10),
    Column("place", "category", levels=tuple(f"town {i}" for i in range(12))),
    Column("gain", "number", 0, 1),
)
TABLE = Table.of(COLUMNS)
SIZE = TABLE.shape[-1]
SCHEMA = """
[[column]]
name = "age"
low = 17
high = 90
mean = 40
std = 12
[[column]]
name = "sex"
kind = "category"
levels = ["m", "f"]
[[column]]
name = "work"
levels = ["none", "state", "own", "private", "other"]
[[column]]
name = "hours"
kind = "number"
low = 0
high = 100
mean = 40
std = 10
[[column]]
name = "place"
kind = "category"
levels = [{places}]
[[column]]
name = "gain"
""".format(places=", ".join(f'"town {i}"' for i in range(12)))


def rows(count: int, seed: int = 0) -> Tensor:
    """Values (count, 1, 1, D)."""
    return TABLE.decode(TABLE.look_alikes(count, torch.Generator().manual_seed(seed)))


def private(count: int = 120, seed: int = 0) -> Batch:
    """Rows with two labels."""
    return Batch(rows(count, seed), torch.arange(count) % 2, tuple(range(count)))


def module(units: int = 40, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """FC units-units-2 over the table."""
    torch.manual_seed(seed)
    layers = [nn.Linear(SIZE, units), activation(), nn.Linear(units, units), activation(), nn.Linear(units, 2)]
    return nn.Sequential(*layers)


def table_target(units: int = 40, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> Target:
    """The same as a target that knows the columns."""
    return replace(load(module(units, seed, activation)), domain=TABLE)


def write_npz(path: Path, count: int = 60, seed: int = 0) -> Path:
    """Encoded rows and labels."""
    batch = private(count, seed)
    np.savez(path, inputs=TABLE.encode(batch.images).flatten(1).numpy(), labels=batch.labels.numpy())
    return path


def write_csv(path: Path, count: int = 60, seed: int = 0) -> Path:
    """The same rows as pandas would write them, with an index and labels as texts."""
    batch = private(count, seed)
    lines = [",".join(["", *(column.name for column in COLUMNS), "income"])]
    for i, cells in enumerate(TABLE.cells(batch.images.flatten(1)).tolist()):
        written = [c.levels[int(x)] if c.kind == "category" else repr(x) for c, x in zip(COLUMNS, cells, strict=True)]
        lines.append(",".join([str(i), *written, "high" if batch.labels[i] else "low"]))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_schema(path: Path) -> Path:
    """The columns as a file."""
    path.write_text(SCHEMA)
    return path
